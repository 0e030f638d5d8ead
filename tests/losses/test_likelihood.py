"""Likelihoods of discrete pixels against scipy and against sums over all outcomes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from genjax.losses import likelihood


def test_one_bit_for_each_dimension():
    """A fair coin for each of 12 dimensions costs 12 log 2 nats."""
    np.testing.assert_allclose(likelihood.bits_per_dim(12 * np.log(2), 12), 1)


def test_categorical_nll_is_scipys():
    random = np.random.RandomState(0)
    logits = 3 * random.randn(4, 2, 3, 5).astype(np.float32)
    levels = random.randint(5, size=(4, 2, 3))
    p = special.softmax(logits, axis=-1).reshape(-1, 5)
    counts = np.eye(5)[levels.ravel()]
    expected = -stats.multinomial(1, p).logpmf(counts).reshape(4, 6).sum(1)
    nll = likelihood.categorical_nll(jnp.asarray(logits), jnp.asarray(levels))
    np.testing.assert_allclose(nll, expected, rtol=1e-5)


def test_categorical_nll_refuses_floats_and_other_shapes():
    with pytest.raises(ValueError, match="integer levels"):
        likelihood.categorical_nll(jnp.zeros((2, 3, 4)), jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="shape"):
        likelihood.categorical_nll(jnp.zeros((2, 3, 4)), jnp.zeros((2,), int))


def masses(mean, log_scale, num_levels):
    x = jnp.linspace(-1, 1, num_levels)
    log_prob = likelihood.discretized_logistic_log_prob(x, mean, log_scale, num_levels)
    return np.asarray(log_prob, np.float64)


@pytest.mark.parametrize("num_levels", [2, 4, 256])
@pytest.mark.parametrize("mean, log_scale", [(0.1, -2.0), (-0.7, -7.0), (3.0, 0.0)])
def test_the_mass_of_each_bin_is_scipys(mean, log_scale, num_levels):
    """In float64, from the upper tail above the mean and from the lower one below."""
    places = np.linspace(-1, 1, num_levels)
    edges = (places[1:] + places[:-1]) / 2
    logistic = stats.logistic(mean, np.exp(log_scale))
    below = np.diff(logistic.cdf(edges), prepend=0, append=1)
    above = -np.diff(logistic.sf(edges), prepend=1, append=0)
    mass = np.where(places < mean, below, above)
    found = masses(mean, log_scale, num_levels)
    np.testing.assert_allclose(np.exp(found).sum(), 1, rtol=2e-5)
    sure = mass > 1e-250
    # The place of a level, of order 1, is rounded by 6e-8, and the scale divides that.
    tolerance = 1e-5 + 2e-7 / np.exp(log_scale)
    np.testing.assert_allclose(
        found[sure], np.log(mass[sure]), rtol=1e-5, atol=tolerance
    )


def outputs_of(components, channels, seed=0, spread=1.0):
    size = components * likelihood.mixture_size(channels)
    return spread * jax.random.normal(jax.random.key(seed), (1, 1, 1, size))


def nll_of(outputs, levels, num_levels):
    """Of pixels int [N, C], all under the same outputs."""
    x = 2 * jnp.asarray(levels, jnp.float32) / (num_levels - 1) - 1
    size = outputs.shape[-1]
    repeated = jnp.broadcast_to(outputs, (len(x), 1, 1, size))
    mixture = likelihood.logistic_mixture(repeated, x.shape[-1])
    return likelihood.logistic_mixture_nll(mixture, x[:, None, None], num_levels)


@pytest.mark.parametrize("spread", [1.0, 5.0])
@pytest.mark.parametrize("num_levels, channels", [(256, 1), (4, 3), (16, 2)])
def test_the_mixture_shares_out_a_mass_of_one(num_levels, channels, spread):
    levels = np.indices((num_levels,) * channels).reshape(channels, -1).T
    nll = nll_of(outputs_of(3, channels, spread=spread), levels, num_levels)
    np.testing.assert_allclose(np.exp(-np.float64(nll)).sum(), 1, rtol=1e-5)


def test_channels_are_coupled_as_in_the_paper():
    """Eq. 3 by hand for one component: b's mean is m_b + beta r + gamma g."""
    logit, means, scales = [0.3], [0.1, -0.2, 0.3], [-1.0, -2.0, -0.5]
    raw = np.array([0.4, -0.7, 0.9])  # alpha, beta, gamma before tanh.
    outputs = jnp.array([[[[*logit, *means, *scales, *raw]]]], jnp.float32)
    levels = np.array([[200, 40, 90]])
    r, g, b = levels[0] / 127.5 - 1
    alpha, beta, gamma = np.tanh(raw)
    centers = [means[0], means[1] + alpha * r, means[2] + beta * r + gamma * g]
    expected = 0.0
    for x, center, scale in zip((r, g, b), centers, scales, strict=True):
        smallest = np.logaddexp(scale, -7)  # As softplus keeps it above -7.
        logistic = stats.logistic(center, np.exp(smallest))
        expected -= np.log(logistic.cdf(x + 1 / 255) - logistic.cdf(x - 1 / 255))
    np.testing.assert_allclose(nll_of(outputs, levels, 256), expected, rtol=1e-4)


def test_far_away_and_narrow_components_keep_a_finite_gradient():
    outputs = jnp.array([[[[0.0, 30.0, -50.0]]]])

    def nll(outputs):
        return nll_of(outputs, np.array([[0]]), 256)[0]

    value, grad = jax.value_and_grad(nll)(outputs)
    assert np.isfinite(value) and np.isfinite(grad).all() and grad[0, 0, 0, 1] > 0


def test_outputs_that_make_no_mixture_are_refused():
    with pytest.raises(ValueError, match="multiple of 10"):
        likelihood.logistic_mixture(jnp.zeros((1, 2, 2, 12)), 3)
    mixture = likelihood.logistic_mixture(jnp.zeros((1, 2, 2, 20)), 3)
    with pytest.raises(ValueError, match="does not fit"):
        likelihood.logistic_mixture_nll(mixture, jnp.zeros((1, 2, 2, 1)))
