"""Spectral norm against numpy's SVD, batch norm by class against numpy's moments."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.networks import layers
from genjax.networks.normalization import (
    BatchNorm,
    SpectralNorm,
    operator_norm,
    power_iteration,
)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Net(nn.Module):
    """One normalised layer."""

    layer: type
    arguments: dict

    @nn.compact
    def __call__(self, x, *, train):
        layer = self.layer(**self.arguments, name="layer")
        return SpectralNorm(layer, name="spectral")(x, train=train)


NETS = {
    "dense": (Net(nn.Dense, dict(features=5)), normal(3, 7)),
    "conv": (Net(layers.Conv, dict(features=5)), normal(2, 4, 4, 3)),
    "embed": (Net(nn.Embed, dict(num_embeddings=6, features=5)), np.arange(6)),
}


def test_power_iteration_finds_the_largest_singular_value_and_its_gradient():
    """d sigma / d W = v u^T with the first singular vectors, up to a common sign."""
    matrix, u = normal(12, 7), normal(7, seed=1)
    v, sigma, ut = np.linalg.svd(matrix)
    found, right = power_iteration(matrix, u, 200)
    np.testing.assert_allclose(found, sigma[0], rtol=1e-5)
    assert abs(right @ ut[0]) > 1 - 1e-5
    grad = jax.grad(lambda w: power_iteration(w, u, 200)[0])(jnp.asarray(matrix))
    np.testing.assert_allclose(grad, np.outer(v[:, 0], ut[0]), atol=1e-3)
    assert power_iteration(matrix, u, 1)[0] < sigma[0]


def test_norm_of_a_convolution_is_that_of_its_matrix_and_so_is_its_gradient():
    """numpy's SVD of the convolution as a matrix, and central differences of that."""

    def conv(kernel, x):
        return layers.Conv(3).convolve(x, kernel)

    kernel, u = normal(3, 3, 2, 3), normal(1, 4, 5, 2, seed=1)

    def numpys(kernel):
        matrix = jax.jacfwd(functools.partial(conv, kernel))(jnp.zeros(u.shape))
        return np.linalg.norm(np.float64(matrix).reshape(-1, u.size), 2)

    norm = functools.partial(
        operator_norm, conv, u=u, tolerance=0.0, max_iterations=2000
    )
    found, new = norm(kernel)
    np.testing.assert_allclose(found, numpys(kernel), rtol=2e-4)
    np.testing.assert_allclose(jnp.linalg.norm(new), 1, rtol=1e-5)
    again, _ = operator_norm(conv, kernel, new, max_iterations=0)
    np.testing.assert_allclose(again, found, rtol=1e-5)
    direction = normal(*kernel.shape, seed=2)
    slope = jnp.vdot(jax.grad(lambda k: norm(k)[0])(kernel), direction)
    ends = [numpys(kernel + 1e-2 * s * direction) for s in (1, -1)]
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-2, rtol=1e-2)
    early, _ = operator_norm(conv, kernel, u, tolerance=0.5)
    assert 0.1 * found < early < 0.999 * found


@pytest.mark.parametrize("name", NETS)
def test_a_normalised_weight_has_norm_one_after_some_calls(name):
    """The layer is applied by hand with its weight over numpy's largest singular value.

    A kernel [h, w, C, D] is the matrix [h w C, D].
    """
    net, x = NETS[name]
    variables = net.init(jax.random.key(0), x, train=True)
    assert set(variables["params"]) == {"layer"}
    params, stats = variables["params"], variables["batch_stats"]
    for _ in range(200):
        _, changed = net.apply(
            {"params": params, "batch_stats": stats}, x, train=True, mutable=True
        )
        stats = changed["batch_stats"]

    def divided(weight):
        if weight.ndim < 2:
            return weight
        matrix = np.asarray(weight, np.float64).reshape(-1, weight.shape[-1])
        return weight / np.linalg.svd(matrix, compute_uv=False)[0]

    expected = net.layer(**net.arguments).apply(
        {"params": jax.tree.map(divided, params["layer"])}, x
    )
    found = net.apply({"params": params, "batch_stats": stats}, x, train=False)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_only_training_refines_the_guess():
    net, x = NETS["dense"]
    variables = net.init(jax.random.key(0), x, train=True)
    before = variables["batch_stats"]["spectral"]["u"]
    for train, moves in [(False, False), (True, True)]:
        _, changed = net.apply(variables, x, train=train, mutable=["batch_stats"])
        after = changed["batch_stats"]["spectral"]["u"]
        assert bool((after != before).any()) == moves


def test_gradient_is_orthogonal_to_the_weight():
    """W / sigma(W) does not change when W is scaled, so W . dL/dW = 0 (Euler)."""
    net, x = NETS["conv"]
    variables = net.init(jax.random.key(0), x, train=False)

    def loss(params):
        stats = variables["batch_stats"]
        y = net.apply({"params": params, "batch_stats": stats}, x, train=False)
        return jnp.sum(jnp.sin(y))

    grad = jax.grad(loss)(variables["params"])["layer"]["kernel"]
    kernel = variables["params"]["layer"]["kernel"]
    size = jnp.linalg.norm(kernel) * jnp.linalg.norm(grad)
    assert size > 0.1
    assert abs(jnp.sum(kernel * grad)) < 1e-5 * size


def test_batch_norm_by_class_scales_and_shifts_what_numpy_normalises():
    x, label = 3 + 2 * normal(6, 4, 4, 3), np.array([0, 2, 1, 1, 0, 2])
    module = BatchNorm(num_classes=3, momentum=0.75)
    variables = module.init(jax.random.key(0), x, label, train=True)
    scale, bias = normal(3, 3, seed=1), normal(3, 3, seed=2)
    params = {**variables["params"], "scale": scale, "bias": bias}
    assert jax.tree.map(jnp.shape, variables["params"]) == {
        "scale": (3, 3),
        "bias": (3, 3),
    }
    variables = {**variables, "params": params}
    y, changed = module.apply(variables, x, label, train=True, mutable=["batch_stats"])
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    h = (x - mean) / np.sqrt(var + 1e-5)
    for i, k in enumerate(label):
        np.testing.assert_allclose(y[i], h[i] * scale[k] + bias[k], atol=1e-4)
    running = changed["batch_stats"]["norm"]
    np.testing.assert_allclose(running["mean"], 0.25 * mean, rtol=1e-5)
    np.testing.assert_allclose(running["var"], 0.75 + 0.25 * var, rtol=1e-5)
    y = module.apply({"params": params, **changed}, x, label, train=False)
    h = (x - 0.25 * mean) / np.sqrt(0.75 + 0.25 * var + 1e-5)
    np.testing.assert_allclose(y[1], h[1] * scale[2] + bias[2], atol=1e-4)


def test_batch_norm_without_classes_takes_no_label_and_one_with_them_asks_for_it():
    x = normal(2, 4, 4, 3)
    variables = BatchNorm().init(jax.random.key(0), x, train=True)
    assert set(variables["params"]) == {"norm"}
    with pytest.raises(ValueError, match="label=None"):
        BatchNorm(num_classes=3).init(jax.random.key(0), x, train=True)
