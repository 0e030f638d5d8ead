"""Divergences against quadrature, bounds and relaxed gradients against enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from genjax.losses import variational


def quadrature_kl(q, p):
    """KL(q || p) of two scipy distributions on the line."""
    value, _ = integrate.quad(
        lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), *q.interval(1 - 1e-14)
    )
    return value


@pytest.mark.parametrize(
    "mean_q, sigma_q, mean_p, sigma_p",
    [(0.3, 0.5, 0.0, 1.0), (-2.0, 1.5, 1.0, 0.7), (0.0, 1.01, 0.0, 1.0)],
)
def test_gaussian_kl_is_the_integral(mean_q, sigma_q, mean_p, sigma_p):
    expected = quadrature_kl(stats.norm(mean_q, sigma_q), stats.norm(mean_p, sigma_p))
    kl = variational.gaussian_kl(
        jnp.array(mean_q), 2 * jnp.log(sigma_q), mean_p, 2 * jnp.log(sigma_p)
    )
    # At sigma 1.01 it is 1e-4: the formula must not lose it to rounding.
    np.testing.assert_allclose(kl, expected, rtol=1e-3)


def test_gaussian_and_mixture_log_prob_are_scipys():
    random = np.random.RandomState(0)
    z, mean = random.randn(5, 3), random.randn(4, 3)
    sigma, probs = random.uniform(0.5, 2, (4, 3)), random.dirichlet(np.ones(4))
    density = sum(
        w * stats.multivariate_normal(m, np.diag(s**2)).pdf(z)
        for w, m, s in zip(probs, mean, sigma, strict=True)
    )
    # Logits may be shifted by any constant.
    value = variational.mixture_log_prob(z, np.log(probs) + 3, mean, 2 * np.log(sigma))
    np.testing.assert_allclose(value, np.log(density), rtol=1e-5)
    value = variational.gaussian_log_prob(z, mean[0], 2 * np.log(sigma[0]))
    np.testing.assert_allclose(
        value, stats.norm(mean[0], sigma[0]).logpdf(z), rtol=1e-5
    )


def test_mixture_components_may_differ_from_one_z_to_the_next():
    """A posterior has its own components for each image: leading axes go together."""
    random = np.random.RandomState(1)
    z, logits = random.randn(5, 2), random.randn(5, 3)
    mean, log_var = random.randn(5, 3, 2), random.randn(5, 3, 2)
    together = variational.mixture_log_prob(z, logits, mean, log_var)
    for i in range(5):
        alone = variational.mixture_log_prob(z[i], logits[i], mean[i], log_var[i])
        np.testing.assert_allclose(together[i], alone, rtol=1e-5)


def test_categorical_kl_is_scipys_entropy():
    random = np.random.RandomState(0)
    q, p = random.dirichlet(np.ones(6), 3), random.dirichlet(np.ones(6), 3)
    kl = variational.categorical_kl(np.log(q) + 2, np.log(p) - 1)
    np.testing.assert_allclose(kl, stats.entropy(q, p, axis=-1), rtol=1e-5)
    kl = variational.categorical_kl(np.log(q), np.zeros(6))
    expected = stats.entropy(q, np.full_like(q, 1 / 6), axis=-1)
    np.testing.assert_allclose(kl, expected, rtol=1e-5)


def test_free_bits_by_hand():
    """Means of 1 and 0.1 nats with 0.5 free: the second counts 0.5, and moves nothing.

    A mean above the minimum keeps each example's own value, below the minimum too.
    """
    kl = jnp.array([[1.8, 0.0], [0.2, 0.2]])
    np.testing.assert_allclose(variational.free_bits(kl, 0.5), [2.3, 0.7], rtol=1e-6)
    grad = jax.grad(lambda kl: variational.free_bits(kl, 0.5).mean())(kl)
    np.testing.assert_allclose(grad, [[0.5, 0], [0.5, 0]])
    np.testing.assert_allclose(variational.free_bits(kl, 0.0), kl.sum(-1), rtol=1e-6)


def test_importance_weighted_bound_is_the_log_of_the_mean():
    """Also where the weights themselves are out of float32's range."""
    weights = np.array([[0.5, 2.0], [1.5, 3.0], [4.0, 1.0]])
    for shift in (0.0, -1000.0):
        bound = variational.importance_weighted_bound(jnp.log(weights) + shift)
        expected = np.log(weights.mean(0)) + shift
        np.testing.assert_allclose(bound, expected, rtol=1e-6)


def test_bound_rises_with_k_to_log_p():
    """z ~ N(0, 1) and x | z ~ N(z, 1) give x ~ N(0, 2), with a q that is wrong.

    At k = 1 the bound is log p(x) - KL(q || p(z | x)) with p(z | x) = N(x / 2, 1/2).
    The standard error of a mean over 20,000 draws is 0.01 at k = 1, and less above.
    """
    x, q = 1.3, stats.norm(0.2, 1.2)
    z = jnp.asarray(q.rvs((128, 20_000), random_state=0), jnp.float32)
    log_weights = (
        variational.gaussian_log_prob(z, 0.0, 0.0)
        + variational.gaussian_log_prob(x, z, 0.0)
        - variational.gaussian_log_prob(z, 0.2, 2 * jnp.log(1.2))
    )
    bounds = [
        variational.importance_weighted_bound(log_weights[:k]).mean()
        for k in (1, 2, 8, 128)
    ]
    exact = stats.norm(0, np.sqrt(2)).logpdf(x)
    elbo = exact - quadrature_kl(q, stats.norm(x / 2, np.sqrt(0.5)))
    assert abs(bounds[0] - elbo) < 0.04
    assert np.all(np.diff(bounds) > 0.02)
    assert abs(bounds[-1] - exact) < 0.01


LOGITS = jnp.array([0.5, -0.3, 0.1])
VALUES = jnp.array([1.0, -2.0, 0.5])  # f of each class, linear in the one-hot.
MATRIX = jnp.array([[1.0, 0.2, 0.0], [0.2, -2.0, 0.3], [0.0, 0.3, 0.5]])


def exact_expectation(logits):
    """sum_k p_k f(e_k), where f(z) = z M z + values . z."""
    return jax.nn.softmax(logits) @ (jnp.diag(MATRIX) + VALUES)


def relaxed_gradients(temperature, num_draws=200_000):
    """The gradient of f at each relaxed draw [num_draws, 3]; equal noise at any t."""

    def one(key):
        def f(logits):
            z = variational.gumbel_softmax(key, logits, temperature)
            return z @ MATRIX @ z + z @ VALUES

        return jax.grad(f)(LOGITS)

    return jax.vmap(one)(jax.random.split(jax.random.key(0), num_draws))


def test_gumbel_softmax_gradient_tends_to_the_exact_one():
    """The exact gradient is that of the enumerated expectation over three classes.

    The bias falls with the temperature t, in proportion to it once t is small, so that
    2 g(t) - g(2t) has none of first order: at t = 0.1 it is within four standard
    errors, each about 0.01, of the exact gradient, of which the largest entry is 0.9.
    """
    exact = jax.grad(exact_expectation)(LOGITS)
    grads = {t: jax.jit(relaxed_gradients)(t) for t in (2.0, 0.5, 0.2, 0.1)}
    errors = [jnp.abs(g.mean(0) - exact).max() for g in grads.values()]
    assert errors[0] > 0.5
    assert all(b < 0.7 * a for a, b in itertools.pairwise(errors))
    limit = 2 * grads[0.1] - grads[0.2]
    standard_error = limit.std(0) / len(limit) ** 0.5
    assert standard_error.max() < 0.015
    assert np.all(np.abs(limit.mean(0) - exact) < 4 * standard_error)


def test_straight_through_draws_classes_with_the_relaxed_gradient():
    """One-hot in value with softmax's frequencies; the gradient, for a linear function,
    is that of the relaxed draw with the same key.
    """
    logits = jnp.broadcast_to(LOGITS, (100_000, 3))

    def mean(logits, straight_through):
        z = variational.gumbel_softmax(jax.random.key(1), logits, 0.7, straight_through)
        return jnp.mean(z @ VALUES), z

    (_, hard), grad = jax.value_and_grad(mean, has_aux=True)(logits, True)
    (_, soft), relaxed_grad = jax.value_and_grad(mean, has_aux=True)(logits, False)
    np.testing.assert_array_equal(np.sort(hard, -1), np.tile([0, 0, 1], (100_000, 1)))
    np.testing.assert_array_equal(hard.argmax(-1), soft.argmax(-1))
    np.testing.assert_allclose(soft.sum(-1), 1, rtol=1e-5)
    # Standard error sqrt(p (1 - p) / 100,000) < 0.0016.
    np.testing.assert_allclose(hard.mean(0), jax.nn.softmax(LOGITS), atol=0.006)
    np.testing.assert_allclose(grad, relaxed_grad, rtol=1e-5)
