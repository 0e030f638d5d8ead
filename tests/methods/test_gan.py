"""What the methods in methods/gan add to the losses and networks they bind."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipes
from ml_collections import ConfigDict
from scipy import special

from genjax import methods
from genjax.config import ConfigError
from genjax.methods.gan._game import Game
from genjax.train import sampling

KEY = jax.random.key(0)
POINTS = {"point": jax.random.normal(jax.random.key(9), (8, 2))}
W = np.array([0.6, -0.5], np.float32)


class Shift(nn.Module):
    """A generator of one weight, moved from the latents."""

    @nn.compact
    def __call__(self, z, *, train):
        return z + self.param("shift", nn.initializers.constant(0.5), (2,))


class Linear(nn.Module):
    """A critic w.x, with batch norm before it on demand."""

    norm: str = "none"

    @nn.compact
    def __call__(self, x, *, train):
        if self.norm == "batch":
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return x @ self.param("w", lambda key: jnp.asarray(W))


def made(name, shape, **fields):
    """The method of a tiny recipe for data of `shape`, with its model changed."""
    config = recipes.get(name)
    config.data.shape, config.data.num_classes = shape, 10
    with config.model.unlocked():
        for path, value in fields.items():
            *parents, last = path.split("__")
            target = config.model
            for parent in parents:
                target = target[parent]
            target[last] = value
    return methods.load(config)


def with_stubs(monkeypatch, name, norm="none", sampler=(), **fields):
    """(discriminator's loss, generator's loss, params) of a method on the stubs."""
    family = methods.__name__ + ".gan._game"
    monkeypatch.setattr(f"{family}.GENERATORS", {"shift": lambda **_: Shift()})
    monkeypatch.setattr(
        f"{family}.DISCRIMINATORS", {"linear": lambda **_: Linear(norm)}
    )
    opponent = "critic" if name.startswith("wgan") else "discriminator"
    networks = {"generator": dict(name="shift"), opponent: dict(name="linear")}
    config = ConfigDict(dict(method=f"gan.{name}", dtype="float32"))
    config.data = dict(shape=(2,))
    config.model = dict(latent_features=2, **networks, **fields)
    config.sampler = dict(sampler)
    method = methods.load(config)
    params, state = method.init(KEY, POINTS)
    return method, params, state


def losses_of(method, params, state, train=True):
    """[(loss, (changed, metrics))] of each player, on one key."""
    return [
        player.loss(params, state, POINTS, KEY, step=0, train=train)
        for player in method.players
    ]


def values(key):
    """w.x of the real points, and of those that the stubs make with `key`."""
    z = np.asarray(jax.random.normal(key, (8, 2)))
    return np.asarray(POINTS["point"]) @ W, (z + 0.5) @ W


def both_values():
    """The same as the discriminator's and the generator's loss see them."""
    real, fake = values(jax.random.split(KEY, 4)[0])
    return real, fake, values(jax.random.split(KEY)[0])[1]


@pytest.mark.parametrize("kind", ["minimax", "non_saturating"])
def test_vanilla_by_scipys_probabilities(monkeypatch, kind):
    method, params, state = with_stubs(monkeypatch, "vanilla", generator_loss=kind)
    real, fake, own = both_values()
    of_d, of_g = losses_of(method, params, state)
    d = -np.log(special.expit(real)) - np.log(1 - special.expit(fake))
    np.testing.assert_allclose(of_d[0], d.mean(), rtol=1e-5)
    probability = special.expit(own)
    g = np.log(1 - probability) if kind == "minimax" else -np.log(probability)
    np.testing.assert_allclose(of_g[0], g.mean(), rtol=1e-5)
    metrics = of_d[1][1]
    np.testing.assert_allclose(metrics["real"], real.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["fake"], fake.mean(), rtol=1e-5)


def test_lsgan_takes_its_labels(monkeypatch):
    """Squares about a = -1, b = 2 and c = 3."""
    method, params, state = with_stubs(monkeypatch, "lsgan", a=-1.0, b=2.0, c=3.0)
    real, fake, own = both_values()
    of_d, of_g = losses_of(method, params, state)
    expected = (np.var(real - 2) + np.mean(real - 2) ** 2) / 2
    expected += (np.var(fake + 1) + np.mean(fake + 1) ** 2) / 2
    np.testing.assert_allclose(of_d[0], expected, rtol=1e-5)
    expected = (np.var(own - 3) + np.mean(own - 3) ** 2) / 2
    np.testing.assert_allclose(of_g[0], expected, rtol=1e-5)


@pytest.mark.parametrize("name, weight", [("wgan", 0.0), ("wgan_gp", 7.0)])
def test_wasserstein_losses_of_a_linear_critic(monkeypatch, name, weight):
    """E f(G(z)) - E f(x), and the penalty 7 (|w| - 1)^2 with gradient penalty alone."""
    fields = dict(penalty_weight=weight) if weight else {}
    method, params, state = with_stubs(monkeypatch, name, **fields)
    real, fake, own = both_values()
    of_d, of_g = losses_of(method, params, state)
    penalty = weight * (np.linalg.norm(W) - 1) ** 2
    expected = fake.mean() - real.mean() + penalty
    np.testing.assert_allclose(of_d[0], expected, rtol=1e-5)
    np.testing.assert_allclose(of_d[1][1].get("penalty", 0), penalty, rtol=1e-5)
    np.testing.assert_allclose(of_g[0], -own.mean(), rtol=1e-5)


def test_batch_statistics_are_of_separate_batches_and_belong_to_the_owner(monkeypatch):
    """Real then generated points update the average, each with a tenth; W is linear.

    Normalised values of each side alone have mean zero, whatever the other side is.
    """
    method, params, state = with_stubs(monkeypatch, "vanilla", norm="batch")
    of_d, of_g = losses_of(method, params, state)
    (changed, metrics), (other, _) = of_d[1], of_g[1]
    assert set(changed) == {"discriminator"} and other == {}
    np.testing.assert_allclose([metrics["real"], metrics["fake"]], 0, atol=1e-5)
    z = np.asarray(jax.random.normal(jax.random.split(KEY)[0], (8, 2)))
    real, fake = np.asarray(POINTS["point"]), z + 0.5
    expected = 0.9 * 0.1 * real.mean(0) + 0.1 * fake.mean(0)
    found = changed["discriminator"]["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    # An evaluation uses the averages as they are (0 and 1) and changes nothing.
    (_, (changed, metrics)), (_, (other, _)) = losses_of(
        method, params, state, train=False
    )
    assert changed == {} and other == {}
    np.testing.assert_allclose(metrics["real"], (real @ W).mean(), rtol=1e-4)


def test_dcgans_players_own_their_statistics():
    method = made("dcgan_digits", (8, 8, 1))
    batch = {"image": jnp.zeros((4, 8, 8, 1), jnp.uint8)}
    params, state = jax.eval_shape(method.init, KEY, batch)
    # At 8 x 8 the discriminator has one level, the input's, without a norm.
    assert set(params) == {"generator", "discriminator"} and set(state) == {"generator"}
    for player, owned in zip(method.players, [set(), {"generator"}], strict=True):
        for train in (True, False):
            _, (changed, _) = jax.eval_shape(
                lambda p, s, player=player, train=train: player.loss(
                    p, s, batch, KEY, step=0, train=train
                ),
                params,
                state,
            )
            assert set(changed) == (owned if train else set())


def test_instance_noise_blurs_all_that_the_discriminator_sees(monkeypatch):
    """w.(x + sigma eps) has a variance more by (sigma |w|)^2; there is none in eval.

    The noise of real points is not that of generated ones.
    """
    batch = {"point": jnp.zeros((4096, 2))}
    monkeypatch.setattr(f"{__name__}.POINTS", batch)
    _, params, state = with_stubs(monkeypatch, "vanilla")
    game = Game(Shift(), Linear(), (2,), 2, instance_noise=0.5)
    seen = []
    of_d = game.discriminator_loss(lambda real, fake: seen.extend((real, fake)) or real)
    of_g = game.generator_loss(lambda fake: seen.append(fake) or fake)
    for train in (True, False):
        for loss in (of_d, of_g):
            loss(params, state, batch, KEY, step=0, train=train)
    square, noise = W @ W, 0.25 * W @ W
    expected = [noise, square + noise, square + noise, 0, square, square]
    np.testing.assert_allclose([np.var(x) for x in seen], expected, rtol=0.1)
    assert abs(np.corrcoef(seen[0], seen[1])[0, 1]) < 0.1


def test_the_discriminator_plays_first_and_k_times():
    """Algorithm 1 of both papers."""
    method = made("vanilla_digits", (8, 8, 1), discriminator_steps=3)
    players = [(p.name, p.networks, p.steps) for p in method.players]
    assert players == [
        ("discriminator", ("discriminator",), 3),
        ("generator", ("generator",), 1),
    ]
    method = made("wgan_gp_grid", (2,))
    assert [(p.name, p.steps) for p in method.players] == [
        ("critic", 5),
        ("generator", 1),
    ]


def test_a_critic_has_no_constant_of_its_own_and_a_discriminator_has():
    for name, network, expected in [
        ("wgan_gp_grid", "critic", {"kernel"}),
        ("vanilla_grid", "discriminator", {"kernel", "bias"}),
    ]:
        params, _ = made(name, (2,)).init(KEY, POINTS)
        assert set(params[network]["out"]) == expected


@pytest.mark.parametrize(
    "name, shape", [("vanilla_grid", (2,)), ("vanilla_digits", (8, 8, 1))]
)
@pytest.mark.parametrize("prior", ["normal", "uniform"])
def test_samples_are_decoded_latents_of_the_prior(name, shape, prior):
    """The latents' first moments are those of N(0, I) or of U(-1, 1)."""
    method = made(name, shape, prior=prior)
    entry, dtype = ("point", jnp.float32) if len(shape) == 1 else ("image", jnp.uint8)
    params, state = method.init(KEY, {entry: jnp.zeros((2, *shape), dtype)})
    keys = sampling.image_keys(0, 4096)
    latents = method.prior(params, state, keys, {})
    assert abs(latents.mean()) < 4.5 / np.sqrt(latents.size)
    variance = 1.0 if prior == "normal" else 1 / 3
    spread = np.std(np.square(latents)) / np.sqrt(latents.size)
    assert abs(np.mean(np.square(latents)) - variance) < 4.5 * spread
    samples = method.sample(params, state, keys[:8], {})
    assert samples.shape == (8, *shape) and samples.dtype == jnp.float32
    decoded = method.decode(params, state, latents[:8], {})
    np.testing.assert_allclose(samples, decoded, atol=1e-6)
    if len(shape) == 3:
        huge = method.decode(params, state, 1e3 * latents[:8], {})
        assert abs(huge).max() <= 1


def test_the_discriminator_chooses_among_proposals(monkeypatch):
    """Samples of N(0.5, I) weighed by exp(s w.x) are N(0.5 + s w, I)."""
    scale = 0.8
    method, params, state = with_stubs(
        monkeypatch, "vanilla", sampler=dict(num_proposals=40, logit_scale=scale)
    )
    keys = sampling.image_keys(0, 5000)
    drawn = np.asarray(method.sample(params, state, keys, {}), np.float64)
    np.testing.assert_allclose(drawn.mean(axis=0), 0.5 + scale * W, atol=4 / 5000**0.5)
    np.testing.assert_allclose(np.cov(drawn.T), np.eye(2), atol=6 / 5000**0.5)


@pytest.mark.parametrize(
    "name, sampler, message",
    [
        ("wgan", dict(num_proposals=2), "num_proposals must be 1"),
        ("lsgan", dict(num_proposals=2), "num_proposals must be 1"),
        ("vanilla", dict(num_proposals=0), "num_proposals must be"),
        ("vanilla", dict(logit_scale=0.0), "logit_scale must be above 0"),
        ("wgan_gp", dict(num_steps=50), "num_steps"),
    ],
)
def test_a_sampler_that_cannot_be_is_refused(monkeypatch, name, sampler, message):
    with pytest.raises(ConfigError, match=message):
        with_stubs(monkeypatch, name, sampler=sampler)


def test_a_game_with_labels_gives_them_to_both_networks():
    class Generator(nn.Module):
        @nn.compact
        def __call__(self, z, label, *, train):
            shift = self.param("shift", nn.initializers.zeros, (2,))
            return z + shift + 10.0 * label[:, None]

    class Discriminator(nn.Module):
        @nn.compact
        def __call__(self, x, label, *, train):
            return x @ self.param("w", lambda key: jnp.array([1.0, 0.0])) - label

    game = Game(Generator(), Discriminator(), (2,), 2, cond=("label",)).checked()
    method = game.method(
        ConfigDict({"sampler": {}}),
        game.discriminator_loss(lambda real, fake: fake - real),
        game.generator_loss(lambda fake: fake),
    )
    batch = {**POINTS, "label": jnp.arange(8)}
    params, state = method.init(KEY, batch)
    assert method.cond == ("label",)
    keys = sampling.image_keys(0, 8)
    samples = method.sample(params, state, keys, {"label": batch["label"]})
    latents = method.prior(params, state, keys, {})
    np.testing.assert_allclose(samples - latents, 10 * np.arange(8)[:, None] * [1, 1])
    # Of generated points w.x - label is z_1 + 9 label, with a mean label of 3.5.
    loss, _ = method.players[1].loss(params, state, batch, KEY, step=0, train=True)
    z = jax.random.normal(jax.random.split(KEY)[0], (8, 2))
    np.testing.assert_allclose(loss, z[:, 0].mean() + 9 * 3.5, rtol=1e-5)


def test_a_dcgan_generator_can_be_wider_than_the_discriminator():
    """Widths of the last and of the first hidden level; alike where none is given."""
    for fields, wide in (({}, 8), ({"generator_features": 24}, 24)):
        method = made("dcgan_digits", (8, 8, 1), features=8, **fields)
        batch = {"image": np.zeros((2, 8, 8, 1), np.uint8)}
        params, _ = jax.eval_shape(method.init, KEY, batch)
        assert params["generator"]["out"]["kernel"].shape[-1] == wide
        assert params["discriminator"]["conv_0"]["kernel"].shape[-1] == 8


@pytest.mark.parametrize(
    "name, shape, fields, message",
    [
        ("wgan_gp_mnist", (28, 28, 1), {"critic__norm": "batch"}, "norm must be"),
        ("wgan_mnist", (28, 28, 1), {"critic_steps": 0}, "whole number"),
        ("wgan_mnist", (28, 28, 1), {"critic__out_bias": True}, "leave"),
        ("dcgan_digits", (8, 8, 1), {"latent_features": 0}, "whole number"),
        ("dcgan_digits", (8, 8, 1), {"feature": 8}, "did you mean 'features'"),
        ("dcgan_digits", (8, 8, 1), {"generator_features": 0}, "whole number"),
        ("dcgan_digits", (9, 9, 1), {}, "even sides"),
        ("dcgan_digits", (8, 8, 1), {"instance_noise": -1}, "at least 0"),
        ("dcgan_digits", (8, 8, 1), {"label_smoothing": 1}, r"in \[0, 1\)"),
        ("dcgan_digits", (2,), {}, "needs images"),
        ("lsgan_mnist", (2,), {}, "DCGAN needs images"),
        ("vanilla_digits", (8, 8, 1), {"prior": "gauss"}, "prior must be one of"),
        ("vanilla_digits", (8, 8, 1), {"generator_loss": "hinge"}, "generator_loss"),
        ("vanilla_digits", (8, 8, 1), {"generator__name": "unet"}, "generator.name"),
        ("vanilla_digits", (8, 8, 1), {"generator__activation": "sin"}, "activation"),
        ("vanilla_digits", (8, 8, 1), {"discriminator__features": ()}, "features"),
        ("vanilla_ring", (2,), {"discriminator__num_outputs": 3}, "leave"),
    ],
)
def test_what_does_not_fit_is_refused(name, shape, fields, message):
    with pytest.raises(ConfigError, match=message):
        made(name, shape, **fields)
