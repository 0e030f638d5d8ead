"""Metropolis-Hastings chains, each one `lax.scan`, with one PRNG key per example."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def independence_chain(
    propose_fn: Callable[[Array], Any],
    log_ratio_fn: Callable[[Any], Array],
    keys: Array,
    *,
    num_proposals: int,
) -> Any:
    """Draws from q, moved towards p by a chain whose proposals are q's draws.

    The next proposal y is taken in place of x with probability min(1, r(y) / r(x)),
    where r = p / q. One proposal is a draw from q; with more and more of them the law
    of the draw tends to p, as fast as 1 - 1 / max r to the power of their number. With
    q a generator and log r the logit of its optimal discriminator this is the sampler
    of MH-GAN, but that the chain starts at a generated example, not at a real one.

    Args:
        propose_fn: Keys [N] -> independent draws from q, any tree of arrays [N, ...];
            draw i depends on key i alone.
        log_ratio_fn: Such draws -> log r up to a constant, float [N].
        keys: Typed PRNG keys, [N].
        num_proposals: How many draws a chain sees, at least one.

    Returns:
        Where the chains end: a tree as `propose_fn` gives it.

    Raises:
        ValueError: If there is no proposal.

    Reference: Turner et al., arXiv:1811.11357, Alg. 1 and Eq. 4; the bound is of
        Mengersen & Tweedie, 1996, Theorem 2.1.
    """
    if num_proposals < 1:
        raise ValueError(f"num_proposals must be at least 1, got {num_proposals}")

    def draw(index: Array) -> tuple[Any, Array, Array]:
        own = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, index)))
        pairs = own(keys)
        x = propose_fn(pairs[:, 0])
        return x, log_ratio_fn(x), jax.vmap(jax.random.exponential)(pairs[:, 1])

    def step(carry: tuple[Any, Array], index: Array):
        x, log_ratio = carry
        y, proposed, threshold = draw(index)
        # -log of a uniform number is exponential.
        taken = proposed - log_ratio > -threshold

        def choose(a: Array, b: Array) -> Array:
            return jnp.where(taken.reshape(-1, *[1] * (a.ndim - 1)), a, b)

        x = jax.tree.map(choose, y, x)
        return (x, jnp.where(taken, proposed, log_ratio)), None

    start = draw(jnp.zeros((), jnp.int32))[:2]
    (x, _), _ = jax.lax.scan(step, start, jnp.arange(1, num_proposals))
    return x
