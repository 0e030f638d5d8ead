"""Losses of unnormalised models, where likelihoods and scores are closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from genjax.losses import energy


def test_contrastive_divergence_has_the_likelihoods_gradient():
    """Three states of energies -log(1/2, 1/4, 1/4): four samples match them exactly.

    The true gradient is scipy's finite difference of E(x) + log sum exp(-E).
    """
    x, fake = np.array([2, 2, 0, 1, 2]), np.array([0, 0, 1, 2])
    theta = -np.log([0.5, 0.25, 0.25]) + 0.7  # The constant has no effect.

    def nll(theta):
        return theta[x].mean() + special.logsumexp(-theta)

    def loss(theta):
        values = energy.contrastive_divergence(theta[x], theta[fake])
        assert values.shape == x.shape
        return values.mean()

    expected = optimize.approx_fprime(theta, nll, 1e-6)
    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(theta)), expected, atol=1e-5)


def test_contrastive_divergence_and_magnitude_per_example():
    real, fake = jnp.array([1.0, -2.0, 4.0]), jnp.array([3.0, 1.0])
    np.testing.assert_allclose(
        energy.contrastive_divergence(real, fake), [-1.0, -4.0, 2.0]
    )
    np.testing.assert_allclose(energy.magnitude(real, fake), [6.0, 9.0, 21.0])


@pytest.mark.parametrize("sigma", [0.1, 0.7, 3.0])
@pytest.mark.parametrize("factor", [1.0, 0.4])
def test_denoising_score_matching_on_gaussian_data(sigma, factor):
    """x0 ~ N(0, s^2), x = x0 + sigma eps: the score is -x / v, v = s^2 + sigma^2.

    sigma score + eps = eps - c sigma x / v has the mean square
    1 - (2 c - c^2) sigma^2 / v, least at c = 1, where s^2 / v is left.
    """
    s = 0.6
    v = s**2 + sigma**2
    expected = 0.5 * (1 - (2 * factor - factor**2) * sigma**2 / v)
    data_key, key = jax.random.split(jax.random.key(0))
    loss = energy.denoising_score_matching(
        lambda x, index: -factor * x / v,
        s * jax.random.normal(data_key, (2048, 4, 4, 2)),
        key,
        sigmas=np.array([sigma]),
    )
    assert loss.shape == (2048,)
    assert abs(loss.mean() - expected) < 4 * loss.std() / loss.size**0.5


def test_denoising_score_matching_tells_the_level_and_takes_it():
    """A score of zero leaves eps^2 / 2 on average; levels come evenly often."""
    sigmas, x0 = np.array([5.0, 1.0, 0.2]), jnp.zeros((3000, 2))
    seen = []

    def score_fn(x, index):
        seen.append((x, index))
        return jnp.zeros_like(x)

    energy.denoising_score_matching(score_fn, x0, jax.random.key(0), sigmas=sigmas)
    x, index = map(np.asarray, seen[0])
    for i, sigma in enumerate(sigmas):
        assert abs(x[index == i].std() / sigma - 1) < 0.1
        assert abs(np.mean(index == i) - 1 / 3) < 0.035
    index = jnp.full(3000, 2)
    loss = energy.denoising_score_matching(
        score_fn, x0, jax.random.key(1), sigmas=sigmas, index=index
    )
    assert abs(seen[1][0].std() / 0.2 - 1) < 0.1
    assert abs(loss.mean() - 0.5) < 0.05


def test_denoising_score_matching_refuses_another_shape():
    with pytest.raises(ValueError, match="must keep shape"):
        energy.denoising_score_matching(
            lambda x, index: x[:, :1],
            jnp.zeros((2, 3)),
            jax.random.key(0),
            sigmas=[1.0],
        )
