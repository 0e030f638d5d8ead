"""Flows whose density is known: integrals over the plane, entropies, enumeration."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, stats

from genjax import images, methods
from genjax.config import ConfigError, base_config
from genjax.losses.likelihood import bits_per_dim
from genjax.methods.flow import _density, ffjord
from genjax.networks.dequantizer import Dequantizer
from genjax.networks.flow import Diagonal

MLP = dict(name="mlp", features=(8,))
RESNET = dict(name="resnet", features=4, num_blocks=0)
GLOW = dict(name="conv", features=4)
ON_POINTS = {
    "realnvp": dict(network=MLP, num_couplings=4),
    "glow": dict(network=MLP, num_steps=4),
    "nice": dict(network=MLP, num_couplings=4),
    "ffjord": dict(network=dict(MLP, activation="tanh")),
    "residual_flow": dict(features=(8, 8), num_blocks=(3,)),
}
ON_IMAGES = {
    "realnvp": dict(network=RESNET, num_couplings=1, num_levels=2),
    "glow": dict(network=GLOW, num_steps=1, num_levels=2),
    "nice": dict(network=MLP, num_couplings=2),
    "ffjord": dict(
        network=dict(name="plain", features=(4,)), num_blocks=(1, 1), tolerance=1e-2
    ),
    "residual_flow": dict(
        features=(4, 4), num_blocks=(0, 1), num_dense_blocks=1, factor_out=True
    ),
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


SQUARE = {"image": jnp.array([[[120], [131]], [[128], [125]]], jnp.uint8)[None]}


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


@pytest.mark.parametrize("method", ["realnvp", "glow", "nice", "residual_flow"])
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
    [
        ("realnvp", "logit"),
        ("glow", "centre"),
        ("nice", "logit"),
        ("nice", "centre"),
        ("residual_flow", "logit"),
    ],
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


def test_a_loose_tolerance_leaves_encode_and_decode_inverses():
    """It is the likelihood's alone: solves there and back are tighter."""
    image = jnp.arange(256, dtype=jnp.uint8).reshape(4, 8, 8, 1)
    flow, params, state = made("ffjord", {"image": image}, **ON_IMAGES["ffjord"])
    params = moved(params, 0.25)
    z = flow.encode(params, state, jax.random.key(0), {"image": image})
    back = flow.decode(params, state, z, {})
    np.testing.assert_allclose(back, images.to_float(image), atol=1e-4)


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


def test_image_bound_holds_in_the_mean_over_noise():
    """E[exp(bound)] = P(image); here P is an integral of a Gaussian over its bins.

    NICE with Gaussian latents and no couplings to speak of is a product of Gaussians.
    """
    batch, scale = SQUARE, 40.0
    network = dict(name="mlp", features=())
    flow, params, state = made("nice", batch, network=network, num_couplings=1)
    params = jax.tree.map(jnp.zeros_like, params)
    params["flow"]["parts_1"]["log_scale"] = jnp.full(4, np.log(scale))
    keys = jax.random.split(jax.random.key(0), 4000)
    bounds = jax.jit(
        jax.vmap(lambda key: flow.log_likelihood(params, state, key, batch)[0][0])
    )(keys)
    edges = np.stack([np.float64(batch["image"]), np.float64(batch["image"]) + 1])
    cdf = stats.norm(0, 1 / scale).cdf(edges / 256 - 0.5)
    ratio = np.exp(np.float64(bounds) - np.log(np.prod(cdf[1] - cdf[0])))
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(4000)
    assert np.mean(np.log(ratio)) < 0


def test_learned_noise_is_accounted_for():
    """E[p(x) exp(-cost)] over x in a part of the bins is the integral of p over it.

    Of all noise, weights p / q have no variance: the density q vanishes at the ends.
    """
    flow = _density.Flow(_density.Space((2, 2, 1)), Diagonal(), Dequantizer(2, 1))
    params, _ = flow.init(jax.random.key(0), SQUARE)
    params = moved(params, 0.3)
    keys = jax.random.split(jax.random.key(1), 4000)
    x, cost = jax.jit(jax.vmap(lambda key: flow.continuous(params, SQUARE, key)))(keys)
    level, p = np.float64(SQUARE["image"]), stats.norm(0.4, 0.2)
    inner = (np.abs(256 * x - level - 0.5) < 0.3).all((1, 2, 3, 4))
    values = np.exp(p.logpdf(x).sum((2, 3, 4)) - cost)[:, 0] * inner
    edges = p.cdf((level + 0.8) / 256) - p.cdf((level + 0.2) / 256)
    ratio = values / np.prod(edges)
    assert inner.mean() > 0.02
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(4000)


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


A = np.array([[0.4, -1.1], [0.7, -0.2]])
B, C = np.array([0.3, -0.5]), np.array([1.0, 0.6])  # dx/dt = A x + B + C t.


def linear_flow(batch, **options):
    """FFJORD with that velocity."""
    network = dict(name="mlp", features=())
    flow, _, state = made("ffjord", batch, network=network, **options)
    out = {"kernel": np.vstack([A.T, C]), "bias": B}
    out = jax.tree.map(jnp.float32, out)
    params = {"flow": {"parts_0": {"net": {"net": {"out": out}}}}}
    return flow, params, state


def test_continuous_flow_of_a_linear_velocity_is_the_matrix_exponential():
    """(x, t, 1)' = M (x, t, 1), so x(1) is a part of expm(M) (x(0), 0, 1).

    The log-determinant is the trace of A, everywhere.
    """
    batch = points(5)
    flow, params, state = linear_flow(batch)
    matrix = np.zeros((4, 4))
    matrix[:2] = np.column_stack([A, C, B])
    matrix[2, 3] = 1
    start = np.column_stack([batch["point"], np.zeros(5), np.ones(5)])
    expected = (start @ linalg.expm(matrix).T)[:, :2]
    z = flow.encode(params, state, jax.random.key(0), batch)
    np.testing.assert_allclose(z, expected, atol=1e-4)
    back = flow.decode(params, state, z, {})
    np.testing.assert_allclose(back, batch["point"], atol=1e-4)
    nats, parts = flow.log_likelihood(params, state, jax.random.key(0), batch)
    np.testing.assert_allclose(parts["log_det"], -np.trace(A), atol=1e-4)
    log_prob = stats.norm.logpdf(expected).sum(-1) + np.trace(A)
    np.testing.assert_allclose(nats, log_prob, rtol=1e-4)


def test_trace_estimates_have_one_noise_for_each_solve():
    """With signs e for noise, e^T A e is tr A plus or minus the off-diagonal sum."""
    flow, params, state = linear_flow(points(64), trace="hutchinson")
    _, parts = flow.log_likelihood(params, state, jax.random.key(0), points(64))
    steps = (-parts["log_det"] - np.trace(A)) / (A[0, 1] + A[1, 0])
    np.testing.assert_allclose(np.abs(steps), 1, atol=1e-3)
    assert 16 <= (steps > 0).sum() <= 48


def test_solves_at_two_levels_have_the_log_determinant_of_their_jacobian():
    """By central differences."""
    options = dict(ON_IMAGES["ffjord"], trace="exact", tolerance=1e-6)
    flow, params, state = made("ffjord", grey(1, shape=(4, 4, 1)), **options)
    model, params = flow.init.__self__, moved(params, 0.25)
    y = jax.random.normal(jax.random.key(1), (1, 4, 4, 1))
    transform = jax.jit(functools.partial(model.transform, train=False))
    z, log_det, *_ = transform(params, state, y, jax.random.key(2))
    latents = functools.partial(jax.jit(model.latents), params, state)
    np.testing.assert_allclose(z, latents(y), atol=1e-4)
    step = 0.02 * np.eye(16).reshape(16, 4, 4, 1)
    difference = np.float64(latents(y + step)) - np.float64(latents(y - step))
    expected = np.linalg.slogdet(difference.reshape(16, 16) / 0.04)[1]
    np.testing.assert_allclose(log_det, [expected], atol=2e-3)
    assert abs(expected) > 0.1


def test_kinetic_energy_is_added_to_the_loss_and_long_solves_are_given_up():
    """A constant velocity B has the energy |B|^2 everywhere."""
    batch, losses = points(8), {}
    for factor in (0.0, 2.0):
        flow, params, state = linear_flow(batch, kinetic_energy=factor)
        out = params["flow"]["parts_0"]["net"]["net"]["out"]
        out["kernel"] = 0 * out["kernel"]
        (player,) = flow.players
        loss = player.loss(params, state, batch, jax.random.key(0), step=0, train=True)
        losses[factor] = loss[0]
    np.testing.assert_allclose(losses[2.0] - losses[0.0], 2 * B @ B, rtol=1e-4)
    flow, params, state = linear_flow(batch, max_steps=2, tolerance=1e-7)
    assert np.isnan(flow.encode(params, state, jax.random.key(0), batch)).all()


def test_likelihood_of_images_is_estimated_without_bias():
    """With the same keys, and so the same noise in the bins, as with whole Jacobians.

    Positive weights make for large Jacobians. Evaluation has terms of its own number.
    """
    batch, nats = grey(2, shape=(4, 4, 1)), {}
    options = dict(features=(4,), kernel_sizes=(3, 3), num_blocks=(0, 1))
    keys = jax.random.split(jax.random.key(0), 250)
    for log_det, terms in [("exact", 1), ("roulette", 1), ("roulette", 8)]:
        flow, params, state = made(
            "residual_flow", batch, **options, log_det=log_det, num_exact_eval=terms
        )
        weights = jax.tree.map(jnp.abs, moved(params, 0.3)), state
        draw = jax.vmap(lambda key: flow.log_likelihood(*weights, key, batch)[0])
        nats[log_det, terms] = np.float64(jax.jit(draw)(keys))
    for terms in (1, 8):
        off = nats["roulette", terms] - nats["exact", 1]
        error = off.std(0) / np.sqrt(len(keys))
        assert (np.abs(off.mean(0)) < 4 * error).all() and (error < 0.2).all()
    assert np.abs(nats["roulette", 8] - nats["roulette", 1]).max() > 0.01


def test_requests_that_cannot_be_met_are_refused():
    image, point = grey(2), points(2)
    with pytest.raises(ConfigError, match=r"halved 4 times.*8x8"):
        made("glow", image, network=GLOW, num_levels=4)
    with pytest.raises(ConfigError, match=r"network.name must be one of \['mlp'\]"):
        made("glow", point, network=GLOW)
    with pytest.raises(ConfigError, match=r"one level, got \(1, 1\)"):
        made("ffjord", point, network=MLP, num_blocks=(1, 1))
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
    with pytest.raises(ConfigError, match="tolerance must be above 0"):
        made("ffjord", point, network=MLP, tolerance=0)
    with pytest.raises(ConfigError, match=r"trace.*'hutchinson'"):
        made("ffjord", point, network=MLP, trace="full")
    widths = dict(features=(4, 4), num_blocks=(1,))
    with pytest.raises(ConfigError, match=r"coeff must be in \(0, 1\), got 1"):
        made("residual_flow", image, **dict(widths, coeff=1))
    with pytest.raises(ConfigError, match=r"features must be whole numbers from 1"):
        made("residual_flow", point, **dict(widths, features=(0,)))
    with pytest.raises(ConfigError, match=r"one level, got \(1, 1\)"):
        made("residual_flow", point, **dict(widths, num_blocks=(1, 1)))
    with pytest.raises(ConfigError, match=r"odd, and one more.*got \(3, 2, 3\)"):
        made("residual_flow", image, **dict(widths, kernel_sizes=(3, 2, 3)))
    with pytest.raises(ConfigError, match=r"halved 4 times.*8x8"):
        made("residual_flow", image, **dict(widths, num_blocks=(1,) * 5))
    with pytest.raises(ConfigError, match=r"num_blocks must be whole numbers"):
        made("residual_flow", image, **dict(widths, num_blocks=(1.5,)))
    with pytest.raises(ConfigError, match=r"log_det.*'roulette'"):
        made("residual_flow", image, **widths, log_det="power_series")
    with pytest.raises(ConfigError, match="num_couplings"):
        made("nice", point, network=MLP, num_couplings=0)


def test_steps_are_held_to_the_worst_example():
    """Errors of [0, 0, 0] and [3, 4, 1]: the root of 26 / 3, not of 26 / 6."""
    tree = jnp.array([[[0.0, 0.0]], [[3.0, 4.0]]]), jnp.array([0.0, 1.0])
    np.testing.assert_allclose(ffjord.worst_norm(tree), (26 / 3) ** 0.5, rtol=1e-6)
    assert not jax.grad(lambda x: ffjord.worst_norm((x, tree[1])))(0 * tree[0]).any()
