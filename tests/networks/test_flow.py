"""Bijections against dense Jacobians, their inverses, and numpy."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.networks import dequantizer, flow, flow_nets, glow


class Small(nn.Module):
    """A network on each place alone, which compiles fast."""

    @nn.compact
    def __call__(self, x, out_features):
        return nn.Dense(out_features)(nn.tanh(nn.Dense(6)(x)))


MLP = functools.partial(flow_nets.DenseNet, (6,))
IMAGE, VECTOR = (4, 4, 2), (5,)
BIJECTIONS = {
    "coupling of channels": (flow.Coupling(MLP()), VECTOR),
    "flipped": (flow.Coupling(MLP(), flip=True), VECTOR),
    "alternate": (flow.Coupling(MLP(), "alternate", scale="none"), VECTOR),
    "checkerboard": (flow.Coupling(flow_nets.ResNet(4, 1), "checkerboard"), IMAGE),
    "actnorm": (flow.ActNorm(), IMAGE),
    "batch norm": (flow.BatchNorm(), IMAGE),
    "convolution": (glow.InvertibleConv(), IMAGE),
    "diagonal": (flow.Diagonal(), VECTOR),
    "chain": (flow.Chain((flow.ActNorm(), flow.Coupling(MLP()))), VECTOR),
    "squeezed": (
        flow.Squeezed(flow.Coupling(flow_nets.ConvNet(4), scale="sigmoid")),
        IMAGE,
    ),
    "factored out": (flow.FactorOut(flow.ActNorm(), Small()), IMAGE),
    "glow steps": (glow.glow_steps(Small(), 2), IMAGE),
}


def made(module, shape, scale=0.3):
    """(variables with noise on every parameter, x [3, *shape])."""
    x = 0.5 + 2 * jax.random.normal(jax.random.key(0), (3, *shape))
    variables = jax.jit(functools.partial(module.init, method="forward"))(
        jax.random.key(1), x
    )
    random = np.random.RandomState(0)
    params = jax.tree.map(
        lambda p: p + scale * random.standard_normal(p.shape).astype(np.float32),
        variables.get("params", {}),
    )
    return {**variables, "params": params}, x


def test_many_residual_blocks_are_those_of_few_one_after_the_other(monkeypatch):
    """Outputs and gradients against blocks that are called one by one."""
    net, x = flow_nets.ResNet(4, 3), jax.random.normal(jax.random.key(0), (2, 4, 4, 2))
    monkeypatch.setattr(flow_nets, "MANY", 3)
    params = jax.jit(lambda key: net.init(key, x, 5))(jax.random.key(1))["params"]
    kernels = params["blocks"]["conv_in"]["kernel"]
    assert kernels.shape == (3, 3, 3, 4, 4) and jnp.ptp(kernels, axis=0).min() > 0
    random = np.random.RandomState(0)
    params = jax.tree.map(lambda p: p + random.normal(size=p.shape) / 3, params)

    def one_by_one(params):
        flat = {name: params[name] for name in ("conv_in", "out")}
        for i in range(3):
            block = jax.tree.map(lambda p, i=i: p[i], params["blocks"])
            flat |= {f"block_{i}_in": block["conv_in"], f"block_{i}": block["conv_out"]}
        return flat

    @jax.jit
    def run(params):
        value = functools.partial(net.apply, x=x, out_features=5)
        return jax.value_and_grad(lambda p: jnp.square(value({"params": p})).sum())(
            params
        )

    loss, grads = run(params)
    monkeypatch.setattr(flow_nets, "MANY", 4)
    expected, expected_grads = run(one_by_one(params))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    grads = one_by_one(grads)
    assert grads.keys() == expected_grads.keys()
    for name in grads:
        for leaf in ("kernel", "bias"):
            a, b = grads[name][leaf], expected_grads[name][leaf]
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


@pytest.mark.parametrize("name", list(BIJECTIONS))
def test_inverse_and_log_det_against_the_dense_jacobian(name):
    module, shape = BIJECTIONS[name]
    variables, x = made(module, shape)

    @jax.jit
    def everything(x):
        y, log_det = module.apply(variables, x, method="forward")
        back = module.apply(variables, y, method="inverse")
        jacobian = jax.jacfwd(
            lambda x: module.apply(variables, x, method="forward")[0]
        )(x)
        return y, log_det, back, jacobian

    y, log_det, back, jacobian = everything(x)
    assert y.shape == x.shape and log_det.shape == (3,)
    assert np.abs(y - x).max() > 0.05
    np.testing.assert_allclose(back, x, atol=1e-4)
    dims = np.prod(shape)
    for i in range(3):
        # Examples do not depend on each other.
        dense = np.float64(jacobian).reshape(3, dims, 3, dims)[i, :, i]
        _, expected = np.linalg.slogdet(dense)
        np.testing.assert_allclose(log_det[i], expected, rtol=1e-4, atol=1e-4)


def test_squeeze_keeps_squares_together_and_checkerboards_are_two_colours():
    """Pixels of a board's first colour have an even sum of row and column."""
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    squares = [[[0, 1, 4, 5], [2, 3, 6, 7]], [[8, 9, 12, 13], [10, 11, 14, 15]]]
    np.testing.assert_array_equal(flow.squeeze(x)[0], squares)
    rows, columns = np.mgrid[:4, :4]
    even = set(np.arange(16)[((rows + columns) % 2 == 0).ravel()])
    first, second = flow.split(x, "checkerboard")
    assert set(np.asarray(first).ravel()) == even
    assert set(np.asarray(second).ravel()) == set(range(16)) - even
    with pytest.raises(ValueError, match="even sides, got 3x4"):
        flow.squeeze(x[:, :3])


@pytest.mark.parametrize("mask", flow.MASKS)
@pytest.mark.parametrize("flip", [False, True])
def test_a_coupling_leaves_one_half_alone_and_moves_the_other(mask, flip):
    shape = IMAGE if mask == "checkerboard" else VECTOR
    module = flow.Coupling(Small(), mask, flip)
    variables, x = made(module, shape)
    y, _ = module.apply(variables, x, method="forward")
    kept, moved = flow.split(x == y, mask)[:: -1 if flip else 1]
    assert kept.all() and not moved.any()


@pytest.mark.parametrize("norm", flow.NORMS.values())
def test_norms_make_the_first_batch_standard(norm):
    x = 3 + 5 * jax.random.normal(jax.random.key(0), (16, 4, 4, 3))
    (y, _), _ = norm().init_with_output(jax.random.key(0), x, method="forward")
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.var((0, 1, 2)), 1, atol=1e-4)


def test_norms_deep_in_scanned_steps_see_what_comes_to_them():
    """At the start couplings scale by sigmoid(2) alone, so the last output is known.

    Actnorm makes variance 1, the rotation keeps its sum over channels, and the second
    half is scaled.
    """
    x = 3 + 5 * jax.random.normal(jax.random.key(0), (64, 4, 4, 4))
    x = x * jnp.array([1.0, 2.0, 0.1, 4.0])
    module = glow.glow_steps(flow_nets.DenseNet((4,)), 3)
    (y, _), variables = jax.jit(
        lambda k, x: module.init_with_output(k, x, method="forward")
    )(jax.random.key(0), x)
    scales = np.array([1, 1, 1, 1]) * np.where(np.arange(4) < 2, 1, 0.880797)
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-4)
    # Channels are all but uncorrelated, so that rotations keep each variance near 1.
    np.testing.assert_allclose(y.std((0, 1, 2)), scales, rtol=0.1)
    bias = variables["params"]["part"]["parts_0"]["bias"]
    assert bias.shape == (3, 4)
    assert np.abs(bias[1:]).max() < 1e-3 < np.abs(bias[0]).min()


def test_batch_norm_normalises_each_batch_and_remembers_an_average():
    """Without `train` the running averages count: 0.9 of the first batch's, 0.1 new."""
    module = flow.BatchNorm()
    x = jax.random.normal(jax.random.key(0), (32, 3))
    variables = module.init(jax.random.key(0), x, method="forward")
    new = 2 + 3 * x
    (y, log_det), changed = module.apply(
        variables, new, train=True, method="forward", mutable=["batch_stats"]
    )
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(y.var(0), 1, atol=1e-4)
    expected = -0.5 * np.log(9 * x.var(0)).sum()
    np.testing.assert_allclose(log_det, np.full(32, expected), rtol=1e-4)
    mean = 0.9 * x.mean(0) + 0.1 * new.mean(0)
    np.testing.assert_allclose(changed["batch_stats"]["mean"], mean, atol=1e-6)


def test_factors_of_the_convolution_are_a_rotation_and_its_log_det_is_numpys():
    module, x = glow.InvertibleConv(), jnp.eye(6).reshape(1, 6, 1, 6)
    variables = module.init(jax.random.key(0), x, method="forward")
    y, log_det = module.apply(variables, x, method="forward")
    np.testing.assert_allclose(y[0, :, 0] @ y[0, :, 0].T, np.eye(6), atol=1e-5)
    np.testing.assert_allclose(log_det, 0, atol=1e-4)
    variables, _ = made(module, (6, 1, 6))
    y, log_det = module.apply(variables, x, method="forward")
    _, expected = np.linalg.slogdet(np.float64(y[0, :, 0]))
    np.testing.assert_allclose(log_det[0], 6 * expected, rtol=1e-4)


def test_dequantisers_log_density_against_the_dense_jacobian():
    """log q(u) = log N(eps) - log |det du/deps|."""
    module = dequantizer.Dequantizer(2, 1, 2)
    image = jax.random.uniform(jax.random.key(0), (1, 4, 4, 1), minval=-1)
    eps = jax.random.normal(jax.random.key(1), (1, 4, 4, 1))
    params = module.init(jax.random.key(2), image, eps)["params"]
    random = np.random.RandomState(0)
    params = jax.tree.map(lambda p: p + 0.2 * random.standard_normal(p.shape), params)
    fn = jax.jit(lambda e: module.apply({"params": params}, image, e))
    u, log_q = fn(eps)
    jacobian = jax.jit(jax.jacfwd(lambda e: fn(e)[0]))(eps).reshape(16, 16)
    normal = -0.5 * np.sum(np.square(eps)) - 8 * np.log(2 * np.pi)
    expected = normal - np.linalg.slogdet(np.float64(jacobian))[1]
    np.testing.assert_allclose(log_q[0], expected, rtol=1e-4)
    assert u.min() > 0 and u.max() < 1
    other = module.apply({"params": params}, -image, eps)[0]
    assert np.abs(other - u).max() > 1e-3
