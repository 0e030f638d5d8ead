"""VAE/GAN: what Alg. 1 of arXiv:1512.09300 asks of each player."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipes
from scipy import stats

from genjax import images, methods
from genjax.config import ConfigError
from genjax.methods.vae.vae_gan import Turn, discriminator_loss
from genjax.networks.vae_gan import Discriminator
from genjax.train import phases


def made(**changes):
    config = recipes.get("vae_gan_digits")
    config.model.update({"feature_variance": 1.0, **changes})
    (phase,) = phases.build(config)
    key, batch = phases.example(phase)
    return phase.method, *phase.method.init(key, batch), batch


@pytest.fixture(scope="module")
def game():
    return made()


def play(method, params, state, batch, name, train=False):
    (player,) = [p for p in method.players if p.name == name]
    return player.loss(params, state, batch, jax.random.key(3), step=0, train=train)


def with_zeros(params, network, *layers):
    """The parameters with some layers of a network all zero."""
    zeros = {
        layer: jax.tree.map(jnp.zeros_like, params[network][layer]) for layer in layers
    }
    return {**params, network: {**params[network], **zeros}}


def test_the_players_play_in_the_papers_order(game):
    method = game[0]
    names = ["encoder", "decoder", "discriminator"]
    assert [player.name for player in method.players] == names
    assert [player.networks for player in method.players] == [(n,) for n in names]


def test_kl_of_a_known_posterior(game):
    """q = N(m, s^2) for each of 4 latents: scipy's expectation of log q - log p."""
    method, params, state, batch = game
    params = with_zeros(params, "encoder", "out")
    m, s = 0.7, 0.5
    params["encoder"]["out"]["bias"] = jnp.array([m] * 4 + [2 * np.log(s)] * 4)
    _, (_, metrics) = play(method, params, state, batch, "encoder")
    q, p = stats.norm(m, s), stats.norm()
    expected = 4 * q.expect(lambda z: q.logpdf(z) - p.logpdf(z))
    np.testing.assert_allclose(metrics["kl"], expected, rtol=1e-5)
    mean = method.encode(params, state, jax.random.key(0), batch)
    np.testing.assert_allclose(mean, np.full((8, 4), m), rtol=1e-6)


def test_an_undecided_discriminator_costs_log_2_for_each_of_its_images(game):
    """D = 1/2: three terms for the discriminator, two for the decoder."""
    method, params, state, batch = game
    params = with_zeros(params, "discriminator", "out")
    loss, _ = play(method, params, state, batch, "discriminator")
    np.testing.assert_allclose(loss, 3 * np.log(2), rtol=1e-6)
    _, (_, metrics) = play(method, params, state, batch, "decoder")
    np.testing.assert_allclose(metrics["game"], 2 * np.log(2), rtol=1e-6)


def test_a_discriminator_that_takes_all_for_real_pays_for_both_fakes(game):
    """Logit l everywhere: -log D(x) once, -log(1 - D) twice, by scipy's logistic."""
    method, params, state, batch = game
    params = with_zeros(params, "discriminator", "out")
    params["discriminator"]["out"]["bias"] = jnp.array([1.5])
    loss, _ = play(method, params, state, batch, "discriminator")
    d = stats.logistic.cdf(1.5)
    np.testing.assert_allclose(loss, -np.log(d) - 2 * np.log(1 - d), rtol=1e-5)
    _, (_, metrics) = play(method, params, state, batch, "decoder")
    np.testing.assert_allclose(metrics["game"], -2 * np.log(d), rtol=1e-5)


def test_the_discriminator_calls_data_real_and_the_other_two_not():
    """-log D(x) - log(1 - D(x~)) - log(1 - D(x_p)) at three different logits."""
    nothing = jnp.zeros(1)
    logits = [jnp.array([value]) for value in (2.0, -1.0, 0.5)]
    loss, _ = discriminator_loss(Turn(nothing, nothing, nothing, *logits, {}))
    real, reconstructed, sampled = stats.logistic.cdf([2.0, -1.0, 0.5])
    expected = -np.log(real) - np.log(1 - reconstructed) - np.log(1 - sampled)
    np.testing.assert_allclose(loss, [expected], rtol=1e-6)


def test_the_reconstruction_is_compared_in_feature_space(game):
    """With a posterior of no width, x~ is decode(encode(x)); each image and its x~ then
    pass the discriminator alone.
    """
    method, params, state, batch = game
    params = with_zeros(params, "encoder")
    bias = params["encoder"]["out"]["bias"].at[4:].set(-60.0)
    kernel = params["encoder"]["out"]["kernel"].at[:, 4:].set(0.0)
    params["encoder"]["out"] = {"kernel": kernel, "bias": bias}
    mean = method.encode(params, state, jax.random.key(0), batch)
    x, made = images.to_float(batch["image"]), method.decode(params, state, mean, {})
    variables = dict(params=params["discriminator"], batch_stats=state["discriminator"])
    net = Discriminator(features=4, hidden=8)
    errors, judged = [], []
    for pair in zip(x, made, strict=True):
        logits, (a, b) = net.apply(variables, jnp.stack(pair), train=False)
        errors.append(np.sum(np.square(np.float64(a - b))) / 2)
        judged.append(logits)
    _, (_, metrics) = play(method, params, state, batch, "discriminator")
    found = metrics["real"], metrics["reconstructed"]
    np.testing.assert_allclose(found, np.mean(judged, axis=0), atol=1e-5)
    _, (_, metrics) = play(method, params, state, batch, "encoder")
    np.testing.assert_allclose(metrics["feature_nll"], np.mean(errors), rtol=1e-4)
    np.testing.assert_allclose(metrics["mse"], np.mean((x - made) ** 2), rtol=1e-4)
    loss, _ = play(method, params, state, batch, "encoder")
    np.testing.assert_allclose(loss, metrics["kl"] + metrics["feature_nll"], rtol=1e-5)


def test_gamma_weighs_the_reconstruction_for_the_decoder_alone():
    """The loss is linear in gamma, with the encoder's term as its slope."""
    losses = {}
    for gamma in (0.0, 1.0, 2.0):
        method, params, state, batch = made(gamma=gamma)
        losses[gamma] = [
            play(method, params, state, batch, name)[0]
            for name in ("encoder", "decoder", "discriminator")
        ]
    encoder, decoder, discriminator = np.transpose([losses[g] for g in losses])
    assert np.ptp(encoder) == 0 and np.ptp(discriminator) == 0
    _, (_, metrics) = play(method, params, state, batch, "encoder")
    np.testing.assert_allclose(np.diff(decoder), metrics["feature_nll"], rtol=1e-4)


def test_a_wider_gaussian_on_the_features_weighs_less():
    """A Gaussian's -log p is the squared distance over twice its variance."""
    found = []
    for variance in (1.0, 4.0):
        method, params, state, batch = made(feature_variance=variance)
        _, (_, metrics) = play(method, params, state, batch, "encoder")
        found.append(metrics["feature_nll"])
    np.testing.assert_allclose(found[0], 4 * found[1], rtol=1e-5)


def test_nobody_but_its_owner_moves_a_networks_statistics(game):
    method, params, state, batch = game
    assert set(state) == {"decoder", "discriminator"}
    for name in ("encoder", "decoder", "discriminator"):
        _, (changed, _) = play(method, params, state, batch, name, train=True)
        assert set(changed) == {name} & set(state)
        _, (changed, _) = play(method, params, state, batch, name)
        assert not changed


def test_samples_are_decoded_draws_of_the_prior(game):
    method, params, state, _ = game
    keys = jax.random.split(jax.random.key(0), 2000)
    z = method.prior(params, state, keys, {})
    assert stats.kstest(np.ravel(z), "norm").pvalue > 1e-3
    drawn = method.sample(params, state, keys[:3], {})
    np.testing.assert_allclose(
        drawn, method.decode(params, state, z[:3], {}), atol=1e-6
    )


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(latent_features=0), "latent_features must be a whole number"),
        (dict(gamma=-1.0), "gamma of at least 0"),
        (dict(feature_variance=0.0), "feature_variance above 0"),
        (dict(encoder=dict(feature=3)), "did you mean 'features'"),
    ],
)
def test_bad_values_are_refused_before_compiling(changes, words):
    config = recipes.get("vae_gan_digits")
    config.model.update(changes)
    with pytest.raises(ConfigError, match=words):
        phases.build(config)


def test_odd_sides_are_refused():
    config, _ = phases.resolve(recipes.get("vae_gan_digits"))
    config.data.shape = (9, 8, 1)
    with pytest.raises(ConfigError, match="even sides"):
        methods.load(config)
