"""Many equal blocks as one, with their parameters side by side.

Compiling such a stack takes the time of one block, however many there are.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax import Array


def initializer(
    block: nn.Module, num_blocks: int, *args: Any, **kwargs: Any
) -> Callable:
    """key -> parameters of `num_blocks` blocks, each leaf with a leading axis of them.

    Args:
        block: An unbound module (parent=None).
        num_blocks: How many.
        *args: Of the block's call.
        **kwargs: Likewise.
    """

    def init(key: Array) -> Any:
        keys = jax.random.split(key, num_blocks)
        return jax.vmap(lambda k: block.init(k, *args, **kwargs)["params"])(keys)

    return init
