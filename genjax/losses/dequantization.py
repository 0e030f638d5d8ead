"""Grey levels as numbers that have a density, and what that costs.

A level k in 0..255 owns the bin [k, k + 1) / 256 of [0, 1]. Noise u in [0, 1] places it
there, at x = (k + u) / 256. A density p of x then bounds the probability of the levels:

    log P(k) >= E_q[log p(x)] - D log 256 - E_q[log q(u | k)],

with equality where q is the density of u given k under p. Uniform noise has log q = 0.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from genjax import images

LEVELS = 256


def uniform(image: Array, key: Array) -> tuple[Array, Array]:
    """Spreads each level evenly over its bin.

    Args:
        image: uint8 [B, ...].
        key: PRNG key of the noise.

    Returns:
        x, float32 [B, ...] in [0, 1), and what to take from log p(x) for a bound of the
        image's log-probability: D log 256 nats, float [B].

    Raises:
        ValueError: If `image` is not uint8.

    Reference: Theis et al., arXiv:1511.01844, Sec. 3.1.
    """
    x = (images.dequantize(image, key) + 1) / 2
    return x, jnp.full(len(image), num_dims(image) * math.log(LEVELS))


def variational(image: Array, u: Array, log_q: Array) -> tuple[Array, Array]:
    """Places each level in its bin by noise that was drawn to suit it.

    Args:
        image: uint8 [B, ...].
        u: Noise in [0, 1], float of the same shape.
        log_q: Its log-density given the image, nats [B].

    Returns:
        x and the nats to take from log p(x), as from `uniform`: D log 256 + log_q.

    Raises:
        ValueError: If `u` has another shape.

    Reference: Ho et al., Flow++, arXiv:1902.00275, Eq. 12.
    """
    if u.shape != image.shape:
        raise ValueError(f"u must have the image's shape {image.shape}, got {u.shape}")
    x = (image.astype(jnp.float32) + u) / LEVELS
    return x, num_dims(image) * math.log(LEVELS) + log_q


def centres(image: Array) -> Array:
    """The middle of each level's bin: float in [-1, 1] as `images.to_float` -> [0, 1].

    To [-1, 1] belong the middles of the 256 bins, from 0.5 / 256 to 255.5 / 256.
    """
    return ((image + 1) * 127.5 + 0.5) / LEVELS


def from_centres(x: Array) -> Array:
    """The inverse of `centres`; `images.to_uint8` then finds the bin that x lies in."""
    return (LEVELS * x - 0.5) / 127.5 - 1


def logit(x: Array, alpha: float) -> tuple[Array, Array]:
    """Stretches [0, 1] to most of the line: log(v / (1 - v)), v = alpha + (1 - 2a) x.

    The paper's v is alpha + (1 - alpha) x, which reaches 1, where the logit is
    infinite; the symmetric form is that of the authors' code.

    Args:
        x: Float [B, ...] in [0, 1].
        alpha: In (0, 0.5), how far v stays from 0 and 1.

    Returns:
        y, float [B, ...], and log |det dy/dx|, nats [B].

    Reference: Dinh et al., Real NVP, arXiv:1605.08803, Sec. 4.1, where alpha is 0.05.
    """
    v = alpha + (1 - 2 * alpha) * x
    log_v, log_rest = jnp.log(v), jnp.log1p(-v)
    return log_v - log_rest, _sum(math.log(1 - 2 * alpha) - log_v - log_rest)


def inverse_logit(y: Array, alpha: float) -> Array:
    """x of `logit`; beyond the logits of [0, 1] it leaves [0, 1] by at most alpha."""
    return (jax.nn.sigmoid(y) - alpha) / (1 - 2 * alpha)


def squash(h: Array) -> tuple[Array, Array]:
    """The sigmoid of h [B, ...], in (0, 1), and its log-determinant, nats [B]."""
    return jax.nn.sigmoid(h), _sum(jax.nn.log_sigmoid(h) + jax.nn.log_sigmoid(-h))


def num_dims(x: Array) -> int:
    """D, the numbers in one example of x [B, ...]."""
    return math.prod(x.shape[1:])


def _sum(x: Array) -> Array:
    return x.reshape(len(x), -1).sum(axis=1)
