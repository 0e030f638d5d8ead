"""Langevin dynamics and annealed importance sampling, each one `lax.scan`.

A `score_fn` gives the gradient of the log-density, minus that of an energy. Everywhere
a step is x + h score(x) + sqrt(2 h) eps, whose h is half the step size of papers that
write x + a / 2 score(x) + sqrt(a) eps. There is one PRNG key per example, and an
example depends on its own alone. Noise number 0 of each key is left to
`samplers.diffusion.initial_noise`, so that the same keys may draw the start.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array


def score_of_energy(energy_fn: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The score, minus the gradient of an energy [N, ...] -> [N] at each example."""
    return jax.grad(lambda x: -energy_fn(x).sum())


def langevin(
    score_fn: Callable[[Array], Array],
    x: Array,
    keys: Array,
    *,
    step_size: float,
    num_steps: int,
    noise: float | None = None,
    project_fn: Callable[[Array], Array] = lambda x: x,
) -> Array:
    """Unadjusted Langevin dynamics: gradient ascent on log p with noise at each step.

    It draws from p up to an error of order `step_size`: for N(0, s^2) the variance of
    the chain ends at s^2 / (1 - step_size / (2 s^2)).

    Args:
        score_fn: Gradient of log p, [N, ...] -> [N, ...].
        x: Where the chains start, float [N, ...].
        keys: Typed PRNG keys, [N].
        step_size: h, what multiplies the score.
        num_steps: Steps to take.
        noise: Standard deviation of the noise added at each step. None is sqrt(2 h);
            less is a lower temperature, and 0 descends to a minimum of the energy.
        project_fn: Applied after each step, such as a clip to the range of pixels.

    Returns:
        The chains' ends, float [N, ...].

    Raises:
        ValueError: Unless there is one key for each example.

    Reference: Du & Mordatch, arXiv:1903.08689, Eq. 1 (their lambda / 2 is h).
    """
    _check_keys(keys, x)
    sigma = math.sqrt(2 * step_size) if noise is None else noise

    def step(x: Array, index: Array):
        moved = x + step_size * score_fn(x)
        if sigma > 0:
            moved = moved + sigma * _noise(keys, index + 1, x)
        return project_fn(moved), None

    return jax.lax.scan(step, x, jnp.arange(num_steps))[0]


def annealed_langevin(
    score_fn: Callable[[Array, Array], Array],
    x: Array,
    keys: Array,
    *,
    sigmas: Array,
    num_steps: int,
    step_size: float,
    temperature: float = 1.0,
    denoise: bool = True,
    project_fn: Callable[[Array, Array], Array] = lambda x, index: x,
) -> Array:
    """Langevin dynamics on data with less and less noise, from the first sigma down.

    Args:
        score_fn: (x float [N, ...], index int [N]) -> the score of data that carry
            noise of sigmas[index], float [N, ...].
        x: Where the chains start, float [N, ...].
        keys: Typed PRNG keys, [N].
        sigmas: Noise levels, float [L], falling.
        num_steps: Steps at each level, the paper's T.
        step_size: h at each level in units of sigma^2. The paper's epsilon is
            2 h sigmas[-1]^2 there, so that its 2e-5 with 0.01 is 0.1 here.
        temperature: Of the noise's variance; 0 adds none and climbs to a mode.
        denoise: Whether to end with the mean of the clean data given the last x,
            x + sigma^2 score(x).
        project_fn: (x, index of the level) -> x, applied after each step.

    Returns:
        The chains' ends, float [N, ...].

    Raises:
        ValueError: Unless there is one key for each example.

    References:
        Song & Ermon, arXiv:1907.05600, Alg. 1.
        Song & Ermon, arXiv:2006.09011, Alg. 1, for `denoise`.
    """
    _check_keys(keys, x)
    sigmas = jnp.asarray(sigmas, jnp.float32)

    def score_at(x: Array, level: Array) -> Array:
        return score_fn(x, jnp.full(len(x), level))

    def step(x: Array, index: Array):
        level = index // num_steps
        h = step_size * sigmas[level] ** 2
        x = x + h * score_at(x, level)
        if temperature > 0:
            x = x + jnp.sqrt(2 * temperature * h) * _noise(keys, index + 1, x)
        return project_fn(x, level), None

    x, _ = jax.lax.scan(step, x, jnp.arange(len(sigmas) * num_steps))
    last = jnp.int32(len(sigmas) - 1)
    return x + sigmas[-1] ** 2 * score_at(x, last) if denoise else x


def annealed_importance(
    log_prob_fn: Callable[[Array, Array], Array],
    transition_fn: Callable[[Array, Array, Array], Array],
    x: Array,
    keys: Array,
    *,
    betas: Array,
) -> tuple[Array, Array]:
    """Annealed importance sampling from a distribution at beta 0 to one at beta 1.

    The mean of exp(log_weights) is an unbiased estimate of Z(betas[-1]) / Z(betas[0]),
    the ratio of the normalising constants. The logarithm of that mean is on average too
    low (Jensen), the less so the more chains and temperatures there are.

    Args:
        log_prob_fn: (x [N, ...], beta scalar) -> unnormalised log-density [N].
        transition_fn: (x, keys [N], beta) -> x, which leaves the density at beta as it
            is, such as a sweep of Gibbs sampling.
        x: Draws from the distribution at betas[0], [N, ...].
        keys: Typed PRNG keys, [N]; transition i gets fold_in(key, i).
        betas: Rising, float [K + 1].

    Returns:
        x at the last temperature, [N, ...], and log_weights [N].

    Raises:
        ValueError: Unless there is one key for each example.

    Reference: Neal, Annealed Importance Sampling, arXiv:physics/9803008, Eq. 4-6;
        Salakhutdinov & Murray, ICML 2008, Sec. 3.
    """
    _check_keys(keys, x)
    betas = jnp.asarray(betas)

    def step(carry: tuple[Array, Array], inputs: tuple[Array, Array, Array]):
        x, log_weights = carry
        index, before, beta = inputs
        log_weights += log_prob_fn(x, beta) - log_prob_fn(x, before)
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
        return (transition_fn(x, own, beta), log_weights), None

    inputs = jnp.arange(1, len(betas)), betas[:-1], betas[1:]
    (x, log_weights), _ = jax.lax.scan(step, (x, jnp.zeros(len(x))), inputs)
    return x, log_weights


def _noise(keys: Array, index: Array, x: Array) -> Array:
    """Noise number `index` of each example, shaped as x [N, ...]."""

    def draw(key: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(key, index), x.shape[1:], x.dtype)

    return jax.vmap(draw)(keys)


def _check_keys(keys: Array, x: Array) -> None:
    if keys.shape != x.shape[:1]:
        raise ValueError(
            "a sampler needs one typed PRNG key per example: expected keys of shape "
            f"{x.shape[:1]}, got {keys.shape}"
        )
