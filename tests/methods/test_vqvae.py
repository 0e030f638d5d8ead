"""What the method adds to the losses of vector quantisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipes
from scipy import stats

from genjax import images, methods
from genjax.config import ConfigError
from genjax.losses import quantization
from genjax.train import phases


def made(**changes):
    """(phase, params, model_state, batch) of the tiny recipe, changed."""
    config = recipes.get("vqvae_digits")
    config.model.update(changes)
    (phase,) = phases.build(config)
    key, batch = phases.example(phase)
    return phase, *phase.method.init(key, batch), batch


def loss_of(phase, params, state, batch, train=True):
    (player,) = phase.method.players
    return player.loss(params, state, batch, jax.random.key(3), step=0, train=train)


@pytest.fixture(scope="module", params=["ema", "gradient"])
def kind(request):
    return request.param, made(codebook=request.param)


def test_one_player_owns_the_codebook_only_where_gradients_move_it(kind):
    codebook, (phase, params, state, _) = kind
    (player,) = phase.method.players
    assert ("codebook" in player.networks) == (codebook == "gradient")
    assert set(params) == set(player.networks)
    assert ("codebook" in state) == (codebook == "ema")
    assert phase.method.sample is None and phase.method.prior is None


def test_codes_start_at_encoder_outputs_of_the_first_batch(kind):
    """So some vector of the batch lies on each code (all other codes are further)."""
    _, (phase, params, state, batch) = kind
    latents = phase.method.encode(params, state, jax.random.key(0), batch)
    assert latents.dtype == jnp.int32 and latents.shape == (8, 4, 4)
    assert len(np.unique(latents)) == 8
    _, (_, metrics) = loss_of(phase, params, state, batch)
    assert metrics["usage"] == 1


def test_decode_and_the_loss_see_one_picture(kind):
    """Squared error of decode(encode(x)) by numpy, over the variance of the batch."""
    codebook, (phase, params, state, batch) = kind
    latents = phase.method.encode(params, state, jax.random.key(0), batch)
    drawn = phase.method.decode(params, state, latents, {})
    x = np.asarray(images.to_float(batch["image"]), np.float64)
    mse = np.mean((drawn - x) ** 2)
    loss, (_, metrics) = loss_of(phase, params, state, batch)
    np.testing.assert_allclose(metrics["reconstruction"], mse, rtol=1e-4)
    weight = {"ema": 0.25, "gradient": 1.25}[codebook]
    expected = mse / x.var() + weight * metrics["commitment"]
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_only_training_moves_the_averages(kind):
    codebook, (phase, params, state, batch) = kind
    _, (changed, _) = loss_of(phase, params, state, batch, train=False)
    assert not changed
    _, (changed, _) = loss_of(phase, params, state, batch)
    assert set(changed) == {"error"} | ({"codebook"} if codebook == "ema" else set())
    if codebook == "ema":
        moved = changed["codebook"]["sums"] - state["codebook"]["sums"]
        assert np.abs(moved).max() > 0


def test_the_error_goes_a_hundredth_of_the_way_to_what_training_saw(kind):
    _, (phase, params, state, batch) = kind
    state = {**state, "error": jnp.float32(5)}
    _, (changed, metrics) = loss_of(phase, params, state, batch)
    expected = 5 + (metrics["reconstruction"] - 5) / 100
    np.testing.assert_allclose(changed["error"], expected, rtol=1e-6)


def test_the_bound_is_of_bins_about_the_drawn_image_and_of_equal_codes(kind):
    """SciPy's logistic of the error's variance, and 16 codes, each out of 8."""
    _, (phase, params, state, batch) = kind
    state = {**state, "error": jnp.float32(0.3)}
    nats, parts = phase.method.log_likelihood(params, state, jax.random.key(0), batch)
    latents = phase.method.encode(params, state, jax.random.key(0), batch)
    drawn = np.float64(phase.method.decode(params, state, latents, {}))
    scale = np.sqrt(0.3) / stats.logistic.std()
    edges = (np.arange(257) - 0.5) / 127.5 - 1
    edges[[0, -1]] = -np.inf, np.inf
    levels = np.asarray(batch["image"], int)
    above, below = (
        stats.logistic.cdf(edges[levels + side], drawn, scale) for side in (1, 0)
    )
    expected = np.log(above - below).sum((1, 2, 3))
    np.testing.assert_allclose(-parts["reconstruction"], expected, rtol=1e-4)
    np.testing.assert_allclose(parts["codes"], 16 * np.log(8), rtol=1e-6)
    np.testing.assert_allclose(nats, expected - 16 * np.log(8), rtol=1e-4)
    assert phase.method.bound


def test_every_code_that_is_used_gets_a_gradient_where_gradients_move_it():
    """Each code lies on a vector of the batch, where its loss is flat; so off it."""
    phase, params, state, batch = made(codebook="gradient")

    def loss(codebook):
        return loss_of(phase, {**params, "codebook": codebook}, state, batch)[0]

    codes = params["codebook"]["codes"] + 0.01
    grads = jax.grad(loss)({"codes": codes})["codes"]
    assert np.all(np.abs(grads).max(axis=1) > 0)


def test_a_dead_code_restarts_in_the_loss():
    """A code far away is not chosen; its count falls below the threshold at once."""
    phase, params, state, batch = made(restart=1.0, decay=0.5)
    codes = quantization.ema_codebook(state["codebook"]).at[2].set(1e3)
    state = {**state, "codebook": quantization.ema_start(codes, 16.0)}
    _, (changed, _) = loss_of(phase, params, state, batch)
    restarted = quantization.ema_codebook(changed["codebook"])[2]
    assert np.abs(restarted).max() < 100
    phase, *_ = made(restart=0.0, decay=0.5)
    _, (changed, _) = loss_of(phase, params, state, batch)
    kept = quantization.ema_codebook(changed["codebook"])[2]
    np.testing.assert_allclose(kept, 1e3, rtol=1e-4)


def test_the_encoders_gradient_is_straight_through():
    """With no commitment, the encoder's gradient is that of the decoder's error pulled
    back from codes to vectors: by finite differences of a loss that moves the codes
    under fixed indices by as much as the encoder moves its vectors.
    """
    phase, params, state, batch = made(commitment=0.0)
    bias = params["encoder"]["conv_out"]["bias"]

    def loss(bias):
        net = {**params["encoder"]}
        net["conv_out"] = {**net["conv_out"], "bias": bias}
        return loss_of(phase, {**params, "encoder": net}, state, batch)[0]

    latents = phase.method.encode(params, state, jax.random.key(0), batch)
    x, start = images.to_float(batch["image"]), state["codebook"]

    def shifted(offset):
        codes = quantization.ema_codebook(start) + offset
        moved = {**state, "codebook": quantization.ema_start(codes, 16.0)}
        drawn = phase.method.decode(params, moved, latents, {})
        return jnp.square(drawn - x).mean() / x.var()

    found = jax.grad(loss)(bias)
    for i, direction in enumerate(np.eye(len(bias), dtype=np.float32)):
        step = 1e-2 * direction
        slope = (shifted(step) - shifted(-step)) / 2e-2
        # ReLUs bend within the step.
        np.testing.assert_allclose(found[i], slope, atol=2e-2 * np.abs(found).max())


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(codebook="kmeans"), "config.model.codebook"),
        (dict(num_codes=0), "num_codes must be a whole number"),
        (dict(decay=1.5), "config.model.decay"),
        (dict(network=dict(feature=3)), "did you mean 'features'"),
        (dict(network=dict(features=0)), "network.features must be a whole number"),
        (dict(network=dict(num_levels=0)), "at least 1"),
        (dict(network=dict(num_levels=4)), r"nearest size is \(16, 16\)"),
    ],
)
def test_bad_values_are_refused_before_compiling(changes, words):
    config = recipes.get("vqvae_digits")
    config.model.update(changes)
    with pytest.raises(ConfigError, match=words):
        phases.build(config)


def test_the_nearest_size_that_works():
    config, _ = phases.resolve(recipes.get("vqvae_digits"))
    config.data.shape, config.model.network.num_levels = (30, 45, 3), 3
    with pytest.raises(ConfigError, match=r"multiples of 8.*nearest size is \(32, 48"):
        methods.load(config)
