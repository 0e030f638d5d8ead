"""Where the examples of a batch lie, told to methods that draw beside them.

Sharding spreads from a batch to all that is computed with it. A generator's latents
meet no example, so that each device would draw them all and do the whole work.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax
from jax import Array
from jax.sharding import Sharding

_EXAMPLES: ContextVar[Sharding | None] = ContextVar("examples", default=None)


@contextmanager
def examples_over(sharding: Sharding) -> Iterator[None]:
    """While a step is traced: its examples [B, ...] lie as `sharding` says."""
    token = _EXAMPLES.set(sharding)
    try:
        yield
    finally:
        _EXAMPLES.reset(token)


def beside_examples(x: Array) -> Array:
    """x [B, ...] as it is, laid over the devices like the examples of the batch."""
    sharding = _EXAMPLES.get()
    return x if sharding is None else jax.lax.with_sharding_constraint(x, sharding)
