"""Networks without labels and modes, as the builder of methods takes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
from jax import Array


@dataclass(frozen=True)
class Unlabelled:
    """A module of the image alone, which takes a label and a mode and heeds neither."""

    module: nn.Module

    def init(self, key: Array, x: Array, label: None, *, train: bool) -> Any:
        """The module's variables."""
        return self.module.init(key, x)

    def apply(
        self,
        variables: Any,
        x: Array,
        label: None,
        *,
        train: bool,
        rngs: Mapping[str, Array] | None = None,
    ) -> Array:
        """The module's outputs."""
        return self.module.apply(variables, x)
