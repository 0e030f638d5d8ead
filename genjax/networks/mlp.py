"""Fully connected networks."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
from jax import Array

from genjax.networks.layers import activation


class MLP(nn.Module):
    """Dense layers with an activation between them.

    Attributes:
        features: Widths of the hidden layers.
        out_shape: Of the output, for one example; the last layer has no activation.
        activation: A key of `layers.ACTIVATIONS`.
    """

    features: Sequence[int]
    out_shape: tuple[int, ...]
    activation: str = "relu"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps x [B, ...], which is flattened, to [B, *out_shape]."""
        x = x.reshape(len(x), -1)
        for i, width in enumerate(self.features):
            dense = nn.Dense(width, dtype=self.dtype, name=f"dense_{i}")
            x = activation(self.activation)(dense(x))
        x = nn.Dense(math.prod(self.out_shape), dtype=self.dtype, name="out")(x)
        return x.reshape(-1, *self.out_shape)
