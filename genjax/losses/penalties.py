"""Penalties on the slope of a discriminator or critic, one value per example.

`values_fn` maps examples [B, ...] to values [B], each of its own example alone: batch
norm, which mixes them, has to be left out.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array


def gradient_penalty(
    values_fn: Callable[[Array], Array], real: Array, fake: Array, key: Array
) -> Array:
    """(|grad f(x)| - 1)^2 at a random point x between a real and a generated example.

    Args:
        values_fn: Critic f, [B, ...] -> [B].
        real: Images or points, float [B, ...].
        fake: Generated ones, of the same shape.
        key: PRNG key; the place on each line is drawn from it.

    Returns:
        Float [B], unweighted (the paper's lambda is 10).

    Reference: Gulrajani et al., arXiv:1704.00028, Eq. 3 and Alg. 1.
    """
    squares = squared_norms(values_fn, between(real, fake, key))
    # sqrt has an infinite gradient at 0, where a critic of dead units stands exactly.
    norms = jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
    return jnp.square(jnp.where(squares > 0, norms, 0.0) - 1)


def r1(values_fn: Callable[[Array], Array], real: Array) -> Array:
    """|grad f(x)|^2 / 2 at real examples: float [B], unweighted.

    Args:
        values_fn: Discriminator's logits, [B, ...] -> [B].
        real: Images or points, float [B, ...].

    Reference: Mescheder et al., arXiv:1801.04406, Eq. 9 with gamma = 1.
    """
    return squared_norms(values_fn, real) / 2


def zero_centred(
    values_fn: Callable[[Array], Array], real: Array, fake: Array, key: Array
) -> Array:
    """|grad f(x)|^2 at a random point x between a real and a generated example.

    Args:
        values_fn: Discriminator's logits, [B, ...] -> [B].
        real: Images or points, float [B, ...].
        fake: Generated ones, of the same shape.
        key: PRNG key; the place on each line is drawn from it.

    Returns:
        Float [B], unweighted.

    Reference: Mescheder et al., arXiv:1801.04406, Sec. 2 (WGAN-GP's with the target 0
        for the norm); Roth et al., arXiv:1705.09367, for why the target should be 0.
    """
    return squared_norms(values_fn, between(real, fake, key))


def between(real: Array, fake: Array, key: Array) -> Array:
    """A point on the line from each real to its generated example, evenly drawn.

    Raises:
        ValueError: If their shapes differ.
    """
    if real.shape != fake.shape:
        raise ValueError(
            f"real and generated examples must have one shape, got {real.shape} and "
            f"{fake.shape}"
        )
    share = jax.random.uniform(key, (len(real), *[1] * (real.ndim - 1)), real.dtype)
    return share * real + (1 - share) * fake


def squared_norms(values_fn: Callable[[Array], Array], x: Array) -> Array:
    """|grad f|^2 at each of x [B, ...]: float32 [B].

    The gradient of the sum holds that of each example, for values_fn does not mix them.

    Raises:
        ValueError: If `values_fn` does not return one value per example.
    """
    shape = jax.eval_shape(values_fn, x).shape
    if shape != x.shape[:1]:
        raise ValueError(f"values_fn must return {x.shape[:1]}, got {shape}")
    grads = jax.grad(lambda x: values_fn(x).sum())(x).astype(jnp.float32)
    return jnp.sum(jnp.square(grads), axis=tuple(range(1, x.ndim)))
