"""Residual maps: singular values of dense Jacobians, inverses, and numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.losses.log_det import exact_log_det
from genjax.networks import flow, residual

DENSE = residual.Contraction((16, 16))
CONV = residual.Contraction((8, 8), (3, 1, 3))
NETS = {"dense": (DENSE, (5,)), "conv": (CONV, (4, 6, 2))}


def moved(tree, scale):
    """Params with so much noise that norms would be far above 1."""
    random = np.random.RandomState(0)
    return jax.tree.map(
        lambda x: x + scale * random.standard_normal(x.shape).astype(np.float32), tree
    )


def numpys_norm(kernel, shape):
    """Of the linear map by `kernel` of examples [..., C] with the sides of `shape`."""
    zero = jnp.zeros((1, *shape[:-1], kernel.shape[-2]))
    matrix = jax.jacfwd(functools.partial(residual.linear, kernel))(zero)
    return np.linalg.norm(np.float64(matrix).reshape(-1, zero.size), 2)


@pytest.mark.parametrize("beta", [-3.0, 0.5, 5.0])
def test_lipswish_has_a_slope_of_at_most_one_that_it_all_but_reaches(beta):
    """The largest slope of swish is 1.0998 (arXiv:1906.02735, Sec. 3.3)."""
    x = np.linspace(-60, 60, 200_001)
    slopes = jax.vmap(jax.grad(residual.lipswish), (0, None))(jnp.float32(x), beta)
    assert slopes.max() == pytest.approx(1.0998 / 1.1, abs=1e-4)
    assert slopes.min() > -1


@pytest.mark.parametrize("name", NETS)
def test_contractions_have_norms_below_one_everywhere(name):
    """Each layer's norm is at most 0.98 by numpy's SVD, and so is that of g.

    Positive weights have their singular vectors side by side, so that the norm of g is
    not far below the product.
    """
    net, shape = NETS[name]
    x = 1 + jax.random.normal(jax.random.key(0), (40, *shape))
    variables = jax.jit(functools.partial(net.init, train=True))(jax.random.key(1), x)
    params = jax.tree.map(jnp.abs, moved(variables["params"], 2.0))
    variables = {**variables, "params": params}
    apply = jax.jit(functools.partial(net.apply, train=True, mutable=["batch_stats"]))
    weights, changed = apply(variables, x)
    for kernel, *_ in weights:
        assert 0.979 < numpys_norm(kernel, shape) < 0.985
    g = jax.jit(lambda x: residual.contract(weights, x))
    jacobian = jax.jit(jax.vmap(lambda x: jax.jacfwd(g)(x[None])))
    matrices = np.float64(jacobian(x)).reshape(len(x), x[0].size, x[0].size)
    norms = np.linalg.norm(matrices, 2, axis=(1, 2))
    assert 0.6 < norms.max() < 0.98**3
    # The vectors were refined for other weights.
    other = {**variables, **changed, "params": moved(params, 0.5)}
    for kernel, *_ in apply(other, x)[0]:
        assert numpys_norm(kernel, shape) < 0.985


def test_small_weights_stay_as_they_are_and_only_training_refines():
    x = jnp.ones((2, 5))
    variables = DENSE.init(jax.random.key(0), x, train=True)
    small = jax.tree.map(lambda p: 0.1 * p, variables["params"])
    own = {**variables, "params": small}
    for i, (kernel, _, _) in enumerate(DENSE.apply(own, x, train=False)):
        np.testing.assert_array_equal(kernel, small[f"kernel_{i}"])
    own = {**variables, "params": moved(variables["params"], 1.0)}
    for train in (False, True):
        _, changed = DENSE.apply(own, x, train=train, mutable=["batch_stats"])
        before, after = variables["batch_stats"]["u_1"], changed["batch_stats"]["u_1"]
        assert bool((before != after).any()) == train


def exact(fn, weights, x, key, train):
    """What a block asks for its log-determinant."""
    return exact_log_det(lambda x: fn(weights, x), x)


BIJECTIONS = {
    "squeezed": (CONV, (4, 4, 1), flow.Squeezed),
    "flattened": (DENSE, (2, 2, 2), residual.Flattened),
}


@pytest.mark.parametrize("name", list(BIJECTIONS))
def test_inverse_and_log_det_against_the_dense_jacobian(name):
    net, shape, wrap = BIJECTIONS[name]
    step = flow.Chain((flow.ActNorm(), residual.Residual(net, exact)))
    module = wrap(flow.Repeated(step, 2))
    x = 0.5 + 2 * jax.random.normal(jax.random.key(0), (3, *shape))
    init = jax.jit(functools.partial(module.init, method="forward"))
    variables = init(jax.random.key(1), x)
    variables = {**variables, "params": moved(variables["params"], 0.3)}

    @jax.jit
    def everything(x):
        rngs = {"log_det": jax.random.key(2)}
        y, log_det = module.apply(variables, x, method="forward", rngs=rngs)
        back = module.apply(variables, y, method="inverse")
        forward = functools.partial(module.apply, variables, method="forward")
        jacobian = jax.vmap(jax.jacfwd(lambda x: forward(x[None])[0][0]))(x)
        return y, log_det, back, jacobian, forward(x)

    y, log_det, back, jacobian, without = everything(x)
    assert y.shape == x.shape and np.abs(y - x).max() > 0.05
    np.testing.assert_allclose(back, x, atol=1e-4)
    dims = np.prod(shape)
    expected = np.linalg.slogdet(np.float64(jacobian).reshape(3, dims, dims))[1]
    np.testing.assert_allclose(log_det, expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(without[0], y)
    assert np.isnan(without[1]).all()


def test_a_fixed_point_of_a_linear_map_solves_equations():
    """x = A x + b, each example in its own time."""
    random = np.random.RandomState(0)
    a = random.standard_normal((4, 4))
    a *= 0.8 / np.linalg.norm(a, 2)
    b = random.standard_normal((3, 4)) * np.array([[1], [1000], [0]])
    b = jnp.float32(b)

    def solve(b, max_iterations):
        def fn(x):
            return x @ jnp.float32(a.T) + b

        return residual.fixed_point(fn, jnp.zeros(b.shape), 1e-6, max_iterations)

    found = solve(b, 500)
    expected = np.linalg.solve(np.eye(4) - a, np.float64(b).T).T
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    alone = solve(b[:1], 500)
    np.testing.assert_allclose(found[:1], alone, atol=1e-7)
    few = solve(b, 2)
    np.testing.assert_allclose(few, b + b @ a.T, rtol=1e-4)
