"""Log-determinants against numpy's, in the mean over draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.losses.log_det import exact_log_det, roulette_log_det

NUM_DRAWS = 20_000


def g(params, x):
    """A contraction of each x [2, 2], seen as a vector, that is not linear."""
    inner, outer = params
    flat = x.reshape(len(x), -1)
    return (jnp.tanh(flat @ inner) @ outer).reshape(x.shape)


def made():
    """(matrices whose norms multiply to 0.6, x [2, 2, 2])."""
    random = np.random.RandomState(0)
    inner, noise = random.standard_normal((2, 4, 4))
    inner /= np.linalg.norm(inner, 2)
    outer = inner.T + 0.1 * noise  # So that J has eigenvalues near its norm.
    outer *= 0.6 / np.linalg.norm(outer, 2)
    x = random.uniform(-1, 1, (2, 2, 2)) * np.array([0.2, 2.0])[:, None, None]
    return tuple(map(jnp.float32, (inner, outer))), jnp.float32(x)


def jacobians(params, x):
    """Of each example: d/dx of tanh(x A) B is B^T diag(1 - tanh^2) A^T."""
    inner, outer = map(np.float64, params)
    slopes = 1 - np.tanh(np.float64(x).reshape(len(x), -1) @ inner) ** 2
    return [outer.T @ np.diag(s) @ inner.T for s in slopes]


def numpys(params, x):
    """slogdet(I + J) of each example."""
    return np.array([np.linalg.slogdet(np.eye(4) + j)[1] for j in jacobians(params, x)])


def test_exact_log_det_is_numpys():
    params, x = made()
    found = exact_log_det(lambda x: g(params, x), x)
    expected = numpys(params, x)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(expected).min() > 0.1 and abs(expected[0] - expected[1]) > 1e-3


def standard_errors_off(draws, expected):
    """How far the mean over the first axis is off, in its own standard errors."""
    draws = np.float64(draws)
    error = draws.std(0) / np.sqrt(len(draws))
    return np.abs(draws.mean(0) - expected) / error


@pytest.mark.parametrize(("num_exact", "p"), [(0, 0.5), (2, 0.5), (1, 0.4)])
def test_estimates_average_to_numpys_log_det_and_to_its_gradient(num_exact, p):
    """The gradient by central differences of numpy's, in the matrices and in x."""
    params, x = made()

    def estimate(params, x, key):
        fn = functools.partial(roulette_log_det, num_exact=num_exact, p=p)
        nats = fn(g, params, x, key)
        return nats[0] - 2 * nats[1], nats

    @jax.jit
    @jax.vmap
    def draw(key):
        grads, nats = jax.grad(estimate, (0, 1), has_aux=True)(params, x, key)
        flat = [grad.ravel() for grad in jax.tree.leaves(grads)]
        return nats, jnp.concatenate(flat)

    nats, grads = draw(jax.random.split(jax.random.key(num_exact), NUM_DRAWS))
    assert standard_errors_off(nats, numpys(params, x)).max() < 4
    start = np.concatenate([np.float64(a).ravel() for a in (*params, x)])
    weights = np.array([1.0, -2.0])

    def value(flat):
        matrices = flat[:32].reshape(2, 4, 4)
        return weights @ numpys(matrices, flat[32:].reshape(2, 2, 2))

    expected = [
        (value(start + 1e-5 * e) - value(start - 1e-5 * e)) / 2e-5
        for e in np.eye(len(start))
    ]
    # 40 numbers: the largest of so many is below 4.5 but once in 4000 seeds.
    assert standard_errors_off(grads, np.array(expected)).max() < 4.5
    assert np.abs(expected).max() > 0.1
    # The estimate says something: its error is small beside what it estimates.
    assert grads.std(0).max() / np.sqrt(NUM_DRAWS) < 0.05 * np.abs(expected).max()


def test_of_many_exact_terms_only_the_traces_are_estimated():
    """With signs for v and a diagonal J, v^T J^k v is the trace without an error."""
    slopes = jnp.array([0.3, -0.4, 0.1])
    x = jnp.ones((2, 3))
    draw = functools.partial(
        roulette_log_det, lambda slopes, x: slopes * x, slopes, x, num_exact=30
    )
    for seed in range(3):
        found = draw(jax.random.key(seed))
        np.testing.assert_allclose(found, np.log1p(slopes).sum(), rtol=1e-5)


def test_the_backward_pass_keeps_no_more_for_more_terms():
    """Bytes of what a gradient's compiled code holds, for few and for many terms."""
    params = made()[0]
    x = jnp.zeros((64, 2, 2))

    def held(num_exact):
        fn = functools.partial(roulette_log_det, num_exact=num_exact)
        grad = jax.jit(jax.grad(lambda p, x, k: fn(g, p, x, k).sum()))
        compiled = grad.lower(params, x, jax.random.key(0)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert held(100) == held(2)
