"""Blocks whose activations the backward pass computes again, where the trainer asks.

Networks say what a block is by `block`; config.remat decides whether it counts.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import flax.linen as nn

_FOUND: ContextVar[list[str] | None] = ContextVar("found", default=None)


@contextmanager
def recomputed_blocks() -> Iterator[list[str]]:
    """While a step is traced: of each block only the inputs are kept.

    Yields:
        A list to which each block's name is added as it is met.
    """
    found: list[str] = []
    token = _FOUND.set(found)
    try:
        yield found
    finally:
        _FOUND.reset(token)


def block(fn: Callable, name: str, checkpoint: Callable = nn.remat) -> Callable:
    """fn as it is, or under `checkpoint` where blocks are to be computed again.

    Args:
        fn: A function (module, *arrays).
        name: What it is, in words.
        checkpoint: `jax.checkpoint` for functions of arrays alone.
    """
    found = _FOUND.get()
    if found is None:
        return fn
    found.append(name)
    return checkpoint(fn)


def apply(module: nn.Module, *args: Any, **static: Any) -> Any:
    """module(*args, **static), as a block; `static` is not traced."""

    def call(module: nn.Module, *args: Any) -> Any:
        return module(*args, **static)

    return block(call, module.name)(module, *args)
