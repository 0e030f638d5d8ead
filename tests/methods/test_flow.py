"""Flows whose density is known: integrals over the plane, entropies, enumeration."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from genjax import images, methods
from genjax.config import ConfigError, base_config
from genjax.losses.likelihood import bits_per_dim

MLP = dict(name="mlp", features=(8,))
RESNET = dict(name="resnet", features=4, num_blocks=0)
GLOW = dict(name="conv", features=4)
ON_POINTS = {
    "realnvp": dict(network=MLP, num_couplings=4),
    "nice": dict(network=MLP, num_couplings=4),
}
ON_IMAGES = {
    "realnvp": dict(network=RESNET, num_couplings=1, num_levels=2),
    "glow": dict(network=GLOW, num_steps=1, num_levels=2),
    "nice": dict(network=MLP, num_couplings=2),
}


def made(method, batch, sampler=None, **model):
    """(method, params, model_state) on data shaped as the batch's."""
    config = base_config()
    config.method = f"flow.{method}"
    config.data.shape = next(iter(batch.values())).shape[1:]
    config.model, config.sampler = model, sampler or {}
    loaded = methods.load(config)
    compiled = {
        name: jax.jit(getattr(loaded, name))
        for name in ("sample", "encode", "decode", "log_likelihood")
    }
    loaded = replace(loaded, **compiled)
    return loaded, *jax.jit(loaded.init)(jax.random.key(0), batch)


def moved(params, scale=0.1):
    """Params with noise, so that nothing is at its initial value."""
    random = np.random.RandomState(0)
    return jax.tree.map(
        lambda x: x + scale * jnp.asarray(random.standard_normal(x.shape), x.dtype),
        params,
    )


def grey(num=6, sigma=40.0, shape=(8, 8, 1)):
    """Images of independent Gaussian pixels, rounded."""
    noise = np.random.RandomState(0).standard_normal((num, *shape))
    return {"image": jnp.asarray(np.clip(np.rint(128 + sigma * noise), 0, 255), "u1")}


def points(num=64):
    noise = np.random.RandomState(0).standard_normal((num, 2))
    return {"point": jnp.asarray(noise @ [[1.0, 0.5], [0.0, 0.7]], jnp.float32)}


@pytest.mark.parametrize("method", list(ON_POINTS))
def test_density_of_points_integrates_to_one(method):
    """By midpoints on [-10, 10]^2, with random weights."""
    flow, params, state = made(method, points(), **ON_POINTS[method])
    ticks = np.linspace(-10, 10, 401)
    middles = (ticks[1:] + ticks[:-1]) / 2
    grid = np.stack(np.meshgrid(middles, middles), -1).reshape(-1, 2)
    batch = {"point": jnp.asarray(grid, jnp.float32)}
    nats, _ = flow.log_likelihood(moved(params, 0.15), state, jax.random.key(0), batch)
    density = np.exp(np.float64(nats)) * (ticks[1] - ticks[0]) ** 2
    assert abs(density.sum() - 1) < 2e-3
    assert not flow.bound


@pytest.mark.parametrize("method", list(ON_POINTS))
def test_likelihood_of_points_is_the_density_that_sample_draws_from(method):
    """The density at a sample, through the Jacobian of `decode` at its latents."""
    flow, params, state = made(method, points(), **ON_POINTS[method])
    params = moved(params, 0.3)
    z = jax.random.normal(jax.random.key(1), (5, 2))
    x = flow.decode(params, state, z, {})
    jacobian = jax.vmap(
        jax.jacfwd(lambda z: flow.decode(params, state, z[None], {})[0])
    )(z)
    log_prob = stats.norm.logpdf(z).sum(-1)
    expected = log_prob - np.linalg.slogdet(np.float64(jacobian))[1]
    nats, parts = flow.log_likelihood(params, state, jax.random.key(0), {"point": x})
    np.testing.assert_allclose(nats, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(-log_prob, parts["base"], rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "transform"),
    [("realnvp", "logit"), ("glow", "centre"), ("nice", "logit"), ("nice", "centre")],
)
def test_decode_inverts_encode_on_all_grey_levels(method, transform):
    image = jnp.arange(256, dtype=jnp.uint8).reshape(4, 8, 8, 1)
    options = dict(ON_IMAGES[method], transform=transform)
    flow, params, state = made(method, {"image": image}, **options)
    params = moved(params)
    key = jax.random.key(0)
    z = flow.encode(params, state, key, {"image": image})
    np.testing.assert_array_equal(
        z, flow.encode(params, state, jax.random.key(7), {"image": image})
    )
    back = flow.decode(params, state, z, {})
    np.testing.assert_allclose(back, images.to_float(image), atol=1e-4)
    np.testing.assert_array_equal(images.to_uint8(back), image)
    assert flow.bound


def test_bits_of_gaussian_pixels_are_their_entropy():
    """Fresh couplings change nothing, and actnorm fits a Gaussian to each place.

    Rounded pixels of deviation sigma have 0.5 log2(2 pi e sigma^2) bits. The standard
    error over 512 images of 64 pixels is 0.7 / 181 nats, and the fit costs less.
    """
    sigma = 30.0
    batch = grey(512, sigma)
    options = dict(ON_IMAGES["realnvp"], transform="centre", num_levels=1)
    flow, params, state = made("realnvp", batch, **options)
    nats, parts = flow.log_likelihood(params, state, jax.random.key(1), batch)
    expected = 0.5 * np.log2(2 * np.pi * np.e * sigma**2)
    assert abs(bits_per_dim(-nats, 64).mean() - expected) < 0.02
    np.testing.assert_allclose(parts["dequantization"], 64 * np.log(256), rtol=1e-5)


@pytest.mark.parametrize("dequantizer", [None, dict(features=2, num_blocks=1)])
def test_image_bound_holds_in_the_mean_over_noise(dequantizer):
    """E[exp(bound)] = P(image) for any noise; here P is an integral over its bins.

    NICE with Gaussian latents and no couplings to speak of is a product of Gaussians.
    """
    batch = {"image": jnp.array([[[120], [131]], [[128], [125]]], jnp.uint8)[None]}
    flow, params, state = made(
        "nice",
        batch,
        network=dict(name="mlp", features=()),
        num_couplings=1,
        dequantizer=dequantizer,
    )
    scale = 40.0
    params = moved(params) if dequantizer else params
    params["flow"] = jax.tree.map(jnp.zeros_like, params["flow"])
    params["flow"]["parts_1"]["log_scale"] = jnp.full(4, np.log(scale))
    keys = jax.random.split(jax.random.key(0), 4000)
    bounds = jax.jit(
        jax.vmap(lambda key: flow.log_likelihood(params, state, key, batch)[0][0])
    )(keys)
    edges = np.stack([np.float64(batch["image"]), np.float64(batch["image"]) + 1])
    cdf = stats.norm(0, 1 / scale).cdf(edges / 256 - 0.5)
    probability = np.prod(cdf[1] - cdf[0])
    ratio = np.exp(np.float64(bounds) - np.log(probability))
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(4000)
    assert np.mean(np.log(ratio)) < 0


def test_temperature_scales_the_latents():
    draws = {}
    for temperature in (1.0, 0.5):
        flow, params, state = made(
            "realnvp", points(), {"temperature": temperature}, **ON_POINTS["realnvp"]
        )
        keys = jax.random.split(jax.random.key(0), 5)
        x = flow.sample(params, state, keys, {})
        draws[temperature] = flow.encode(params, state, keys[0], {"point": x})
    np.testing.assert_allclose(draws[0.5], 0.5 * draws[1.0], atol=1e-4)


def test_batch_norm_learns_averages_in_training_only():
    flow, params, state = made(
        "realnvp", points(), **ON_POINTS["realnvp"], norm="batch"
    )
    (player,) = flow.players
    other = {"point": 2 * points()["point"] + 1}
    results = {}
    for train in (True, False):
        loss = jax.jit(functools.partial(player.loss, train=train))
        results[train] = loss(params, state, other, jax.random.key(0), step=0)
    assert not results[False][1][0]
    changed = results[True][1][0]
    assert jax.tree.structure(changed) == jax.tree.structure(dict(state))
    average = changed["flow"]["batch_stats"]["parts_0"]["mean"]
    expected = 0.9 * points()["point"].mean(0) + 0.1 * other["point"].mean(0)
    np.testing.assert_allclose(average, expected, atol=1e-5)


def test_requests_that_cannot_be_met_are_refused():
    image, point = grey(2), points(2)
    with pytest.raises(ConfigError, match=r"halved 4 times.*8x8"):
        made("glow", image, network=GLOW, num_levels=4)
    with pytest.raises(ConfigError, match="needs images"):
        made("glow", point, network=GLOW)
    with pytest.raises(ConfigError, match=r"alpha must be in \(0, 0.5\), got 0"):
        made("realnvp", image, **ON_IMAGES["realnvp"], alpha=0)
    with pytest.raises(ConfigError, match=r"'resnet'.*got 'resnt'"):
        made("realnvp", image, network=dict(name="resnt"))
    with pytest.raises(ConfigError, match=r"network.name must be one of \['mlp'\]"):
        made("realnvp", point, network=RESNET)
    with pytest.raises(ConfigError, match=r"transform.*'logit'"):
        made("nice", image, network=MLP, transform="sigmoid")
    with pytest.raises(ConfigError, match="temperature"):
        made("nice", image, {"temperature": -1}, network=MLP)
    with pytest.raises(ConfigError, match="needs images"):
        made("nice", point, network=MLP, dequantizer={})
    with pytest.raises(ConfigError, match="num_couplings"):
        made("nice", point, network=MLP, num_couplings=0)
