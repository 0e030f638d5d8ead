"""Bounds of discrete probabilities against sums and integrals over the bins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from genjax import images
from genjax.losses import dequantization


def test_uniform_noise_is_exact_for_a_density_that_is_flat_in_each_bin():
    """p(x) = 256 P(k) on the bin of k gives log p(x) - D log 256 = log P(image)."""
    probs = np.random.RandomState(0).dirichlet(np.ones(256))
    image = np.random.RandomState(1).randint(256, size=(5, 4, 4, 1)).astype(np.uint8)
    image[0] = 255
    x, cost = dequantization.uniform(jnp.asarray(image), jax.random.key(0))
    x = np.float64(x)
    assert x.min() >= 0 and x.max() < 1
    inside = x * 256 - image
    # Uniform in its bin: 80 draws, Kolmogorov and Smirnov's test.
    assert stats.kstest(inside.ravel(), "uniform").pvalue > 1e-3
    log_density = np.log(256 * probs[np.int64(x * 256)]).sum((1, 2, 3))
    expected = np.log(probs[image]).sum((1, 2, 3))
    np.testing.assert_allclose(log_density - cost, expected, rtol=1e-5)


@pytest.mark.parametrize("level", [0, 100, 255])
def test_any_noise_gives_the_probability_of_the_level(level):
    """E_q[p(x) exp(-cost)] is the integral of p over the bin, whichever q is."""
    p, q = stats.beta(2.0, 3.0), stats.beta(1.5, 2.5)
    image = jnp.full((1, 1, 1, 1), level, jnp.uint8)

    def integrand(u):
        noise, log_q = jnp.full(image.shape, u), jnp.array([q.logpdf(u)])
        x, cost = dequantization.variational(image, noise, log_q)
        return q.pdf(u) * p.pdf(x[0, 0, 0, 0]) * np.exp(-cost[0])

    value, _ = integrate.fixed_quad(np.vectorize(integrand), 0, 1, n=10)
    expected = p.cdf((level + 1) / 256) - p.cdf(level / 256)
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_centres_are_the_middles_of_bins_and_every_place_in_a_bin_is_its_level():
    image = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)
    x = dequantization.centres(images.to_float(image))
    np.testing.assert_allclose(x.ravel(), (np.arange(256) + 0.5) / 256, rtol=1e-5)
    for shift in (-0.49, 0.0, 0.49):
        back = dequantization.from_centres(x + shift / 256)
        np.testing.assert_array_equal(images.to_uint8(back), image)


@pytest.mark.parametrize("alpha", [0.05, 1e-6])
def test_logit_against_scipy_and_its_jacobian(alpha):
    x = jax.random.uniform(jax.random.key(0), (3, 2, 2, 1), minval=2e-3, maxval=0.998)
    y, log_det = dequantization.logit(x, alpha)
    v = alpha + (1 - 2 * alpha) * np.float64(x)
    np.testing.assert_allclose(y, special.logit(v), rtol=1e-4, atol=1e-5)
    # d logit(v) / dv by central differences, in double precision.
    step = 1e-7
    slope = (special.logit(v + step) - special.logit(v - step)) / (2 * step)
    expected = np.log(slope * (1 - 2 * alpha)).sum((1, 2, 3))
    np.testing.assert_allclose(log_det, expected, rtol=1e-4)
    np.testing.assert_allclose(dequantization.inverse_logit(y, alpha), x, atol=1e-6)


def test_squashed_normal_noise_has_a_density_that_integrates_to_one():
    """q(u) = N(h) / (du/dh) at u = sigmoid(h), against quadrature over u."""

    def density(u):
        h = jnp.full((1, 1), special.logit(u), jnp.float32)
        back, log_det = dequantization.squash(h)
        np.testing.assert_allclose(back[0, 0], u, rtol=1e-5)
        return stats.norm(0.3, 0.8).pdf(h[0, 0]) * np.exp(-log_det[0])

    value, _ = integrate.fixed_quad(np.vectorize(density), 0.001, 0.999, n=40)
    np.testing.assert_allclose(value, 1, atol=2e-3)


def test_other_dtypes_and_shapes_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        dequantization.uniform(jnp.zeros((1, 2, 2, 1)), jax.random.key(0))
    with pytest.raises(ValueError, match=r"shape \(1, 2, 2, 1\), got \(1, 2\)"):
        image = jnp.zeros((1, 2, 2, 1), jnp.uint8)
        dequantization.variational(image, jnp.zeros((1, 2)), jnp.zeros(1))
