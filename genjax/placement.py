"""Where the examples of a batch lie, told to what is computed beside them.

Sharding spreads from a batch to all that is computed with it. A generator's latents
meet no example, so that each device would draw them all and do the whole work. Weights
that are split spread their own sharding, along channels, and what is exchanged would be
activations, which grow with the batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

_EXAMPLES: ContextVar[NamedSharding | None] = ContextVar("examples", default=None)


@contextmanager
def examples_over(sharding: NamedSharding) -> Iterator[None]:
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


def whole(tree: Any) -> Any:
    """Weights as they are, to be gathered where they are split over the devices."""
    sharding = _EXAMPLES.get()
    if sharding is None:
        return tree
    place = NamedSharding(sharding.mesh, PartitionSpec())
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, place), tree)
