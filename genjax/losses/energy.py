"""Losses of models that are known up to a constant, by an energy or a score."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array


def contrastive_divergence(on_real: Array, on_fake: Array) -> Array:
    """Energies of the data minus the mean energy of samples of the model.

    If the samples follow p, proportional to exp(-E), the gradient of its mean is that
    of the negative log-likelihood: the unknown log Z has the gradient -mean(dE) over p.
    Samples of a chain that started at the data, or was never long enough, approximate
    it. No gradient must pass through the samples themselves.

    Args:
        on_real: E(x) of data, or a free energy where units are hidden, float [B].
        on_fake: E(x) of samples, float [M].

    Returns:
        Float [B], unbounded below: it says how far the two are apart, not how good the
        model is.

    References:
        Hinton, Training Products of Experts by Minimizing Contrastive Divergence, 2002.
        Du & Mordatch, arXiv:1903.08689, Eq. 2.
    """
    return on_real - on_fake.mean()


def magnitude(on_real: Array, on_fake: Array) -> Array:
    """E(x)^2 of data plus its mean over samples, [B]: keeps energies near 0.

    A constant that is added to all energies changes nothing else, and drifts.

    Args:
        on_real: E(x) of data, float [B].
        on_fake: E(x) of samples, float [M].

    Returns:
        Float [B], unweighted.

    Reference: Du & Mordatch, arXiv:1903.08689, Alg. 1 (its alpha is the weight).
    """
    return jnp.square(on_real) + jnp.square(on_fake).mean()


def denoising_score_matching(
    score_fn: Callable[[Array, Array], Array],
    x0: Array,
    key: Array,
    *,
    sigmas: Array,
    index: Array | None = None,
) -> Array:
    """1/2 || sigma score(x0 + sigma eps) + eps ||^2, one value per example.

    Its minimiser is the score of the data with noise of standard deviation sigma. The
    paper's weight sigma^2 makes all levels count alike. The norm is averaged over
    dimensions, not summed, so the value does not grow with resolution.

    Args:
        score_fn: (x float [B, ...], index int [B]) -> the score at noise level
            sigmas[index], float [B, ...].
        x0: Data, float [B, ...].
        key: PRNG key; eps, and index unless given, are drawn from it.
        sigmas: Noise levels, float [L].
        index: Levels, int [B]; uniform if None.

    Returns:
        Float [B].

    Raises:
        ValueError: If `score_fn` does not preserve the shape of `x0`.

    Reference: Song & Ermon, arXiv:1907.05600, Eq. 5 and 6 with lambda = sigma^2.
    """
    index_key, eps_key = jax.random.split(key)
    sigmas = jnp.asarray(sigmas, jnp.float32)
    if index is None:
        index = jax.random.randint(index_key, x0.shape[:1], 0, len(sigmas))
    eps = jax.random.normal(eps_key, x0.shape, x0.dtype)
    sigma = sigmas[index].reshape(-1, *[1] * (x0.ndim - 1))
    score = score_fn(x0 + sigma * eps, index)
    if score.shape != x0.shape:
        raise ValueError(f"score_fn must keep shape {x0.shape}, got {score.shape}")
    error = jnp.square(sigma * score + eps)
    return 0.5 * error.mean(axis=tuple(range(1, x0.ndim)))
