"""Likelihoods of decoders against scipy and against sums over all their outcomes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from genjax.losses import reconstruction

LEVELS = np.arange(256, dtype=np.uint8)


def test_squared_error_is_a_mean_over_pixels():
    x = jnp.arange(12.0).reshape(2, 2, 3)
    np.testing.assert_allclose(reconstruction.squared_error(x + 2, x), [4.0, 4.0])


def test_bernoulli_nll_is_scipys():
    random = np.random.RandomState(0)
    logits, x = 3 * random.randn(4, 5, 2), random.randint(2, size=(4, 5, 2))
    expected = -stats.bernoulli(special.expit(logits)).logpmf(x).sum((1, 2))
    nll = reconstruction.bernoulli_nll(jnp.asarray(logits), jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(nll, expected, rtol=1e-5)


def test_bernoulli_nll_of_a_sure_pixel_keeps_its_gradient():
    """sigmoid(200) is 1 in float32, and -log p(0) is still 200."""
    nll, grad = jax.value_and_grad(lambda a: reconstruction.bernoulli_nll(a, 0 * a)[0])(
        jnp.array([[200.0]])
    )
    assert nll == 200 and grad == 1


def test_gaussian_nll_is_scipys():
    random = np.random.RandomState(0)
    mean, x, sigma = random.randn(3, 4, 4, 1), random.randn(3, 4, 4, 1), 0.3
    expected = -stats.norm(mean, sigma).logpdf(x).sum((1, 2, 3))
    log_var = jnp.full(x.shape, 2 * np.log(sigma))
    nll = reconstruction.gaussian_nll(jnp.asarray(mean), log_var, jnp.asarray(x))
    np.testing.assert_allclose(nll, expected, rtol=1e-5)


def logistic(mean, log_scale, levels=LEVELS):
    """nll of each grey level under one distribution."""
    x = jnp.asarray(levels)[:, None]
    mean, log_scale = (jnp.full(x.shape, float(v)) for v in (mean, log_scale))
    return np.asarray(reconstruction.discretized_logistic_nll(mean, log_scale, x))


PARAMETERS = [(0.1, -2.0), (-0.7, -5.0), (0.999, -7.0), (3.0, 0.0), (-40.0, 1.0)]


@pytest.mark.parametrize("mean, log_scale", PARAMETERS)
def test_discretized_logistic_shares_out_a_mass_of_one(mean, log_scale):
    total = np.exp(-logistic(mean, log_scale).astype(np.float64)).sum()
    np.testing.assert_allclose(total, 1, rtol=2e-5)


@pytest.mark.parametrize("mean, log_scale", PARAMETERS)
def test_discretized_logistic_is_scipys_mass_of_each_bin(mean, log_scale):
    """In float64, from the upper tails below the mean and the lower ones above it."""
    edges = (np.arange(1, 256) - 127.5 - 0.5) / 127.5
    logistic_cdf = stats.logistic(mean, np.exp(log_scale))
    below = np.diff(logistic_cdf.cdf(edges), prepend=0, append=1)
    above = -np.diff(logistic_cdf.sf(edges), prepend=1, append=0)
    mass = np.where(mean > LEVELS / 127.5 - 1, below, above)
    sure = mass > 1e-250
    nll = logistic(mean, log_scale)
    # The place of a level, of order 1, is rounded by 6e-8, and the scale divides that.
    tolerance = 1e-5 + 2e-7 / np.exp(log_scale)
    np.testing.assert_allclose(
        nll[sure], -np.log(mass[sure]), rtol=1e-5, atol=tolerance
    )


def test_discretized_logistic_keeps_a_gradient_far_away():
    """At 2000 scales the mass is exp(-2000), and the nll grows by one each scale."""

    def nll(mean):
        log_scale = jnp.full((1, 1), -7.0)
        x = jnp.array([[0]], jnp.uint8)
        return reconstruction.discretized_logistic_nll(mean[None, None], log_scale, x)[
            0
        ]

    value, grad = jax.value_and_grad(nll)(jnp.array(0.9))
    assert np.isfinite(value) and value > 1000
    np.testing.assert_allclose(grad, np.exp(7.0), rtol=1e-5)


def test_levels_and_their_places_are_the_same_pixels():
    x = LEVELS.reshape(2, 8, 8, 2)
    mean, log_scale = jnp.full(x.shape, 0.2), jnp.full(x.shape, -1.5)
    places = jnp.asarray(x, jnp.float32) / 127.5 - 1
    a, b = (
        reconstruction.discretized_logistic_nll(mean, log_scale, jnp.asarray(v))
        for v in (x, places)
    )
    np.testing.assert_allclose(a, b, rtol=1e-5)
    assert a.shape == (2,)


def test_shapes_that_would_broadcast_are_refused():
    x = jnp.zeros((2, 4, 4, 1))
    with pytest.raises(ValueError, match="shape of x"):
        reconstruction.gaussian_nll(x, jnp.zeros((2, 1, 1, 1)), x)
