"""Langevin chains on Gaussians, whose moments are closed forms, and AIS on known Z."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from genjax.samplers import langevin

MEAN, S = 1.5, 0.7


def gaussian_score(x):
    return (MEAN - x) / S**2


def keys_of(num, seed=0):
    return jax.random.split(jax.random.key(seed), num)


def close_to_moments(x, mean, variance):
    """Four standard errors of a normal sample's mean and variance."""
    x = np.asarray(x, np.float64)
    assert abs(x.mean() - mean) < 4 * (variance / x.size) ** 0.5
    assert abs(x.var() / variance - 1) < 4 * (2 / x.size) ** 0.5


@pytest.mark.parametrize("num_steps", [1, 3, 60])
def test_langevin_on_a_gaussian_has_the_moments_of_its_recursion(num_steps):
    """x' - m = r (x - m) + sqrt(2 h) eps with r = 1 - h / s^2: an AR(1) process.

    From a point x the mean is m + r^n (x - m) and the variance 2 h (1 - r^(2n)) /
    (1 - r^2), which ends at s^2 / (1 - h / (2 s^2)): a quarter above s^2 here.
    """
    h, start = 0.2, -2.0
    x = langevin.langevin(
        gaussian_score,
        jnp.full((2000, 5), start),
        keys_of(2000),
        step_size=h,
        num_steps=num_steps,
    )
    r = 1 - h / S**2
    variance = 2 * h * (1 - r ** (2 * num_steps)) / (1 - r**2)
    close_to_moments(x, MEAN + r**num_steps * (start - MEAN), variance)
    if num_steps == 60:
        assert variance == pytest.approx(S**2 / (1 - h / (2 * S**2)))


def test_less_noise_is_a_lower_temperature():
    """Noise sqrt(2 h tau) leaves the variance tau s^2 as the step goes to zero."""
    h, tau = 0.01, 0.25
    x = langevin.langevin(
        gaussian_score,
        jnp.full((1000, 5), MEAN),
        keys_of(1000),
        step_size=h,
        num_steps=300,
        noise=(2 * h * tau) ** 0.5,
    )
    close_to_moments(x, MEAN, tau * S**2 / (1 - h / (2 * S**2)))


def test_langevin_without_noise_descends_and_stays_where_it_is_held():
    score_fn = langevin.score_of_energy(
        lambda x: jnp.sum((x - MEAN) ** 2, axis=1) / (2 * S**2)
    )
    start = jnp.array([[-2.0, 0.0], [1.0, 5.0]])
    settings = dict(step_size=0.1, num_steps=4, noise=0.0)
    x = langevin.langevin(score_fn, start, keys_of(2), **settings)
    expected = MEAN + (1 - 0.1 / S**2) ** 4 * (start - MEAN)
    np.testing.assert_allclose(x, expected, rtol=1e-5)
    held = langevin.langevin(
        score_fn,
        start,
        keys_of(2),
        project_fn=lambda x: jnp.clip(x, -1, 1),
        **(settings | dict(num_steps=50)),
    )
    np.testing.assert_allclose(held, np.ones((2, 2)))


def mixture_score(x, sigma, weights=(0.8, 0.2), means=(-4.0, 4.0), s=0.5):
    """Score of a mixture on the line whose components carry noise sigma besides."""
    v = s**2 + jnp.asarray(sigma)[..., None] ** 2
    offsets = jnp.asarray(means) - x[..., None]
    shares = jax.nn.softmax(jnp.log(jnp.asarray(weights)) - offsets**2 / (2 * v))
    return jnp.sum(shares * offsets / v, axis=-1)


def test_annealed_langevin_weighs_modes_right_where_langevin_does_not():
    """Song & Ermon, arXiv:1907.05600, Fig. 3: the score does not know far weights.

    A chain from a point falls into the nearest mode. With noise the modes overlap, and
    shares settle while they do. The share's standard error is (.8 .2 / 2000)^.5 = .009.
    """
    num = 2000
    start = 8 * jax.random.uniform(jax.random.key(5), (num, 1), minval=-1)
    sigmas = np.geomspace(10, 0.1, 25)
    annealed = langevin.annealed_langevin(
        lambda x, i: mixture_score(x, jnp.asarray(sigmas)[i][:, None]),
        start,
        keys_of(num),
        sigmas=sigmas,
        num_steps=20,
        step_size=0.1,
    )
    plain = langevin.langevin(
        lambda x: mixture_score(x, 0.0), start, keys_of(num), step_size=0.02,
        num_steps=100,
    )  # fmt: skip
    assert abs(np.mean(annealed > 0) - 0.2) < 0.036
    assert abs(np.mean(plain > 0) - 0.5) < 0.05
    assert np.mean(np.abs(np.abs(annealed) - 4) < 1.5) > 0.99


@pytest.mark.parametrize("denoise", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_annealed_langevin_on_a_gaussian(denoise, temperature):
    """The score at a level is -x / (s^2 + sigma^2), so all x stay Gaussian.

    The variances of the levels follow one from another; the mean of clean data given x
    is s^2 / (s^2 + sigma^2) x.
    """
    sigmas, h = np.array([2.0, 0.7, 0.3]), 0.3
    variance = 9.0
    for sigma in sigmas:
        step = h * sigma**2
        for _ in range(2):
            variance *= (1 - step / (S**2 + sigma**2)) ** 2
            variance += 2 * temperature * step
    if denoise:
        variance *= (S**2 / (S**2 + sigmas[-1] ** 2)) ** 2
    x = langevin.annealed_langevin(
        lambda x, i: -x / (S**2 + jnp.asarray(sigmas)[i][:, None] ** 2),
        3 * jax.random.normal(jax.random.key(1), (2000, 5)),
        keys_of(2000),
        sigmas=sigmas,
        num_steps=2,
        step_size=h,
        temperature=temperature,
        denoise=denoise,
    )
    close_to_moments(x, 0.0, variance)


def test_examples_depend_on_their_own_keys():
    start, keys = jnp.zeros((5, 3)), keys_of(5)
    rows = np.array([3, 1])

    def walk(rows):
        return langevin.langevin(
            gaussian_score, start[rows], keys[rows], step_size=0.1, num_steps=3
        )

    whole = walk(np.arange(5))
    np.testing.assert_allclose(walk(rows), whole[rows], rtol=1e-6)
    assert len(np.unique(whole)) == whole.size
    with pytest.raises(ValueError, match="expected keys of shape \\(5,\\), got \\(2,"):
        langevin.langevin(gaussian_score, start, keys[:2], step_size=0.1, num_steps=1)


def test_ais_between_gaussians_finds_the_ratio_of_their_integrals():
    """Z_1 / Z_0 = s of exp(-(x - m)^2 / (2 s^2)) against exp(-x^2 / 2), in a plane s^2.

    In between, the density is normal of precision 1 - beta + beta / s^2, and drawing
    from it is a transition. Four temperatures leave the weights unequal.
    """
    num = 20_000

    def log_prob(x, beta):
        energy = (1 - beta) * x**2 + beta * (x - MEAN) ** 2 / S**2
        return -0.5 * energy.sum(axis=1)

    def draw(x, keys, beta):
        precision = 1 - beta + beta / S**2
        noise = jax.vmap(lambda k: jax.random.normal(k, (2,)))(keys)
        return beta * MEAN / S**2 / precision + noise / jnp.sqrt(precision)

    x, log_weights = langevin.annealed_importance(
        log_prob,
        draw,
        jax.random.normal(jax.random.key(1), (num, 2)),
        keys_of(num),
        betas=np.linspace(0, 1, 5),
    )
    weights = np.exp(np.asarray(log_weights, np.float64))
    assert abs(weights.mean() - S**2) < 4 * weights.std() / num**0.5
    assert weights.std() > 0.1 * weights.mean()
    close_to_moments(x, MEAN, S**2)


def test_ais_of_six_coupled_bits_agrees_with_enumeration():
    """Heat baths, bit after bit, leave each tempered distribution as it is."""
    num, size = 4000, 6
    random = np.random.RandomState(0)
    couplings = np.triu(random.normal(size=(size, size)), 1)
    field = random.normal(size=size)
    states = np.array(list(itertools.product([0.0, 1.0], repeat=size)))
    values = np.einsum("si,ij,sj->s", states, couplings, states) + states @ field
    both = jnp.asarray(couplings + couplings.T, jnp.float32)

    def log_prob(x, beta):
        return beta * (0.5 * jnp.sum((x @ both) * x, axis=1) + x @ jnp.asarray(field))

    def sweep(x, keys, beta):
        u = jax.vmap(lambda k: jax.random.uniform(k, (size,)))(keys)
        for i in range(size):
            p = jax.nn.sigmoid(beta * (x @ both[i] + field[i]))
            x = x.at[:, i].set((u[:, i] < p).astype(x.dtype))
        return x

    start = jax.random.bernoulli(jax.random.key(2), 0.5, (num, size)).astype(float)
    x, log_weights = langevin.annealed_importance(
        log_prob, sweep, start, keys_of(num), betas=np.linspace(0, 1, 11)
    )
    weights = np.exp(np.asarray(log_weights, np.float64))
    ratio = np.exp(special.logsumexp(values) - size * np.log(2))
    assert abs(weights.mean() - ratio) < 4 * weights.std() / num**0.5
    # Weighted, the last states have the distribution's own mean.
    mean = special.softmax(values) @ states
    found = weights @ np.asarray(x) / weights.sum()
    assert np.abs(found - mean).max() < 4 * stats.sem(weights * np.asarray(x)[:, 0])
