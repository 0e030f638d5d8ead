"""Walks in a latent space: straight, along the sphere, over a plane, by arithmetic."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def lerp(a: Array, b: Array, t: ArrayLike) -> Array:
    """The point at `t` on the straight line from a (t = 0) to b (t = 1).

    Args:
        a: Where it starts, float [...].
        b: Where it ends, of the same shape.
        t: A number, or float [M].

    Returns:
        float [...], or [M, ...] for t [M].

    Raises:
        ValueError: If the shapes differ, or `t` is neither a number nor a row of them.
    """
    t = _check(a, b, t)
    return _scaled(1 - t, a) + _scaled(t, b)


def slerp(a: Array, b: Array, t: ArrayLike) -> Array:
    """The same along the arc of a great circle, at constant angular speed.

    sin((1 - t) w) / sin(w) a + sin(t w) / sin(w) b, w being the angle between the
    flattened vectors. Vectors of one length keep it, where `lerp` cuts through the
    sphere: White (arXiv:1609.04468) shows what that does to a Gaussian latent. As w
    goes to 0 it becomes `lerp`. Between opposite vectors no arc is the shortest, and
    the result means nothing.

    Args:
        a: Where it starts, float [...].
        b: Where it ends, of the same shape.
        t: A number, or float [M].

    Returns:
        float [...], or [M, ...] for t [M].

    Raises:
        ValueError: As `lerp`.

    Reference: Shoemake, Animating Rotation with Quaternion Curves, SIGGRAPH 1985.
    """
    t = _check(a, b, t)
    angle = _angle(a, b)

    def weight(share: Array) -> Array:
        # sin(share w) / sin(w) without its 0 / 0: jnp.sinc(x) is sin(pi x) / (pi x).
        return share * jnp.sinc(share * angle / jnp.pi) / jnp.sinc(angle / jnp.pi)

    return _scaled(weight(1 - t), a) + _scaled(weight(t), b)


def gaussian_grid(num_per_side: int) -> Array:
    """A square of points that divide a plane's standard normal into equal shares.

    The n quantiles at (i + 1/2) / n of the standard normal, on both axes. Read as a
    picture's rows, they lie as in a plot: the first number rises to the right, the
    second upwards.

    Args:
        num_per_side: n, at least 1.

    Returns:
        float32 [n * n, 2].

    Raises:
        ValueError: If there is no point.

    Reference: Kingma & Welling, arXiv:1312.6114, App. A (the inverse CDF of a grid).
    """
    if num_per_side < 1:
        raise ValueError(f"num_per_side must be at least 1, got {num_per_side}")
    shares = (jnp.arange(num_per_side) + 0.5) / num_per_side
    quantiles = jax.scipy.stats.norm.ppf(shares)
    x, y = jnp.meshgrid(quantiles, quantiles[::-1])
    return jnp.stack([x, y], axis=-1).reshape(-1, 2)


def arithmetic(a: Array, b: Array, c: Array) -> Array:
    """mean(a) - mean(b) + mean(c), each over some exemplars of one concept.

    Args:
        a: Latents of the exemplars, float [K, ...]; K may differ between the three.
        b: What is taken away.
        c: What is added.

    Returns:
        One latent, float [...].

    Raises:
        ValueError: If the latents differ in shape.

    Reference: Radford et al., arXiv:1511.06434, Sec. 6.3.2 (three exemplars each).
    """
    shapes = [x.shape[1:] for x in (a, b, c)]
    if len(set(shapes)) != 1:
        raise ValueError(f"the three must hold latents of one shape, got {shapes}")
    return a.mean(axis=0) - b.mean(axis=0) + c.mean(axis=0)


def traverse(latent: Array, axes: Sequence[int], values: ArrayLike) -> Array:
    """Copies of one latent in which one number at a time takes other values.

    Args:
        latent: float [D].
        axes: Which numbers, A of them, each in [0, D).
        values: What they take, float [M], or [A, M] for each its own.

    Returns:
        float [A, M, D]; entry [i, j] is `latent` but for values[j], or values[i, j],
        at axes[i].

    Raises:
        ValueError: If `latent` is no vector, or lacks an axis.
    """
    if latent.ndim != 1:
        raise ValueError(f"latent must be a vector [D], got shape {latent.shape}")
    if outside := [axis for axis in axes if not 0 <= axis < len(latent)]:
        raise ValueError(f"axes must be in [0, {len(latent)}), got {outside}")
    chosen = jax.nn.one_hot(jnp.asarray(axes), len(latent), dtype=bool)
    values = jnp.asarray(values, latent.dtype)
    values = jnp.broadcast_to(values, (len(axes), values.shape[-1]))
    return jnp.where(chosen[:, None], values[..., None], latent)


def _angle(a: Array, b: Array) -> Array:
    """Between the flattened vectors, in [0, pi]; a zero vector is at right angles."""
    tiny = jnp.finfo(a.dtype).tiny
    a, b = a.ravel(), b.ravel()
    a = a / jnp.maximum(jnp.linalg.norm(a), tiny)
    b = b / jnp.maximum(jnp.linalg.norm(b), tiny)
    # The arc cosine of a . b would lose half the digits next to 0 and pi.
    return 2 * jnp.arctan2(jnp.linalg.norm(a - b), jnp.linalg.norm(a + b))


def _scaled(weights: Array, x: Array) -> Array:
    return jnp.multiply.outer(weights, x)


def _check(a: Array, b: Array, t: ArrayLike) -> Array:
    t = jnp.asarray(t, jnp.result_type(a.dtype, float))
    if a.shape != b.shape or t.ndim > 1:
        raise ValueError(
            "expected a and b of one shape and t a number or [M], got "
            f"{a.shape}, {b.shape} and {t.shape}"
        )
    return t
