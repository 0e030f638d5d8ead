"""Negative log-likelihoods of discrete pixels, one value per example, in nats."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

# With bins 2/255 wide the probability of a pixel is one already, to float32.
MIN_LOG_SCALE = -7.0


def bits_per_dim(nats: Array, num_dims: int) -> Array:
    """Nats per example [...] to bits per dimension, such as 32 * 32 * 3 of CIFAR-10."""
    return nats / (num_dims * math.log(2))


def categorical_nll(logits: Array, levels: Array) -> Array:
    """-log p(x) of independent values that are one of K levels.

    Args:
        logits: Float [B, ..., K].
        levels: Int [B, ...] in 0..K-1.

    Returns:
        Nats, float [B], summed over all axes but the first.

    Raises:
        ValueError: If the shapes do not fit, or the levels are no integers.

    Reference: van den Oord et al., arXiv:1601.06759, Sec. 2.2.
    """
    if logits.shape[:-1] != levels.shape or not jnp.issubdtype(
        levels.dtype, jnp.integer
    ):
        raise ValueError(
            f"logits {logits.shape} need integer levels of shape {logits.shape[:-1]}, "
            f"got {levels.dtype} {levels.shape}"
        )
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    chosen = jnp.take_along_axis(log_probs, levels[..., None], axis=-1)
    return -chosen.reshape(len(levels), -1).sum(axis=1)


def discretized_logistic_log_prob(
    x: Array, mean: Array, log_scale: Array, num_levels: int = 256
) -> Array:
    """log P(x) of each value on K levels, under logistic distributions cut into bins.

    Bins are 2 / (K - 1) wide around the levels; the first and the last reach to
    infinity. With u and l the edges in units of the scale, sigmoid(u) - sigmoid(l) =
    sigmoid(u) sigmoid(-l) (1 - exp(l - u)), whose logarithm loses no digits however far
    away or narrow the bin; the authors' code approximates there.

    Args:
        x: Places 2 k / (K - 1) - 1 of the levels k, float [...].
        mean: Float, a shape that broadcasts with that of x.
        log_scale: Float, likewise.
        num_levels: K.

    Returns:
        Nats, float [...].

    Reference: Salimans et al., PixelCNN++, arXiv:1701.05517, Eq. 2.
    """
    half = 1 / (num_levels - 1)
    inverse_scale = jnp.exp(-log_scale)
    log_below_upper = jax.nn.log_sigmoid((x + half - mean) * inverse_scale)
    log_above_lower = jax.nn.log_sigmoid((mean - x + half) * inverse_scale)
    log_width = jnp.log(-jnp.expm1(-2 * half * inverse_scale))
    inside = log_below_upper + log_above_lower + log_width
    log_prob = jnp.where(x < half / 2 - 1, log_below_upper, inside)
    return jnp.where(x > 1 - half / 2, log_above_lower, log_prob)


class LogisticMixture(NamedTuple):
    """M logistic distributions for each pixel of C channels.

    Attributes:
        logits: Of the components, which the channels share, float [..., M].
        mean: Before the channels are coupled, float [..., M, C].
        log_scale: At least `MIN_LOG_SCALE`, float [..., M, C].
        coupling: Strictly lower triangular, float [..., M, C, C] in (-1, 1): what
            channel i's mean gains for each unit of channel j < i.
    """

    logits: Array
    mean: Array
    log_scale: Array
    coupling: Array


def mixture_size(channels: int) -> int:
    """Numbers that describe one component: 10 for three channels, 3 for one."""
    return 1 + 2 * channels + channels * (channels - 1) // 2


def smooth_maximum(x: Array, minimum: float) -> Array:
    """max(x, minimum) rounded off, so that its gradient vanishes nowhere."""
    return minimum + jax.nn.softplus(x - minimum)


def logistic_mixture(outputs: Array, channels: int) -> LogisticMixture:
    """Reads a network's outputs [..., M * mixture_size(C)] as a mixture.

    Raises:
        ValueError: If their number does not fit.

    Reference: Salimans et al., arXiv:1701.05517, Sec. 2.1 and 2.2.
    """
    size = mixture_size(channels)
    if outputs.shape[-1] % size:
        raise ValueError(f"outputs must be a multiple of {size}, got {outputs.shape}")
    parts = outputs.astype(jnp.float32).reshape(*outputs.shape[:-1], -1, size)
    logits, mean, raw, coupling = jnp.split(
        parts, (1, 1 + channels, 1 + 2 * channels), axis=-1
    )
    log_scale = smooth_maximum(raw, MIN_LOG_SCALE)
    rows, columns = jnp.tril_indices(channels, -1)
    square = jnp.zeros((*coupling.shape[:-1], channels, channels))
    square = square.at[..., rows, columns].set(jnp.tanh(coupling))
    return LogisticMixture(logits[..., 0], mean, log_scale, square)


def logistic_mixture_nll(
    mixture: LogisticMixture, x: Array, num_levels: int = 256
) -> Array:
    """-log P(x) of images under a discretised mixture of logistics for each pixel.

    Every channel of a pixel comes from one component, and its mean moves with the
    channels before it.

    Args:
        mixture: Arrays [B, ..., M, ...].
        x: Places of the levels in [-1, 1], float [B, ..., C].
        num_levels: K, see `discretized_logistic_log_prob`.

    Returns:
        Nats, float [B].

    Raises:
        ValueError: If the shapes do not fit.

    Reference: Salimans et al., arXiv:1701.05517, Eq. 2 and 3.
    """
    logits, mean, log_scale, coupling = mixture
    if x.shape != (*mean.shape[:-2], mean.shape[-1]):
        raise ValueError(f"a mixture of means {mean.shape} does not fit x {x.shape}")
    mean = mean + jnp.einsum("...mij,...j->...mi", coupling, x)
    log_probs = discretized_logistic_log_prob(
        x[..., None, :], mean, log_scale, num_levels
    ).sum(-1)
    log_prob = jax.nn.logsumexp(jax.nn.log_softmax(logits) + log_probs, axis=-1)
    return -log_prob.reshape(len(x), -1).sum(axis=1)
