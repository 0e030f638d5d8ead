"""Encoders and decoders of autoencoders, fully connected and convolutional.

Every encoder maps (x [B, ...], context [B, K] or None) to [B, *out_shape], and every
decoder (z [B, ...], context) to [B, *out_shape]; what the outputs mean is the method's
business. The context is whatever else both shall see, such as a one-hot class.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from genjax.networks.layers import Conv, ConvTranspose, activation, num_halvings
from genjax.networks.mlp import MLP


class MLPCoder(nn.Module):
    """Encoder or decoder of dense layers.

    Attributes:
        out_shape: Of the output, for one example.
        features: Widths of the hidden layers; () is a linear map.
        activation: A key of `layers.ACTIVATIONS`.
    """

    out_shape: tuple[int, ...]
    features: Sequence[int] = (500,)
    activation: str = "tanh"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, context: Array | None = None) -> Array:
        """Maps x [B, ...], context [B, K] or None to float32 [B, *out_shape]."""
        h = _join(x.reshape(len(x), -1), context)
        mlp = MLP(
            self.features, self.out_shape, self.activation, self.dtype, name="mlp"
        )
        return mlp(h).astype(jnp.float32)


class ConvEncoder(nn.Module):
    """Strided convolutions while `num_halvings` allows, then two dense layers.

    Attributes:
        out_shape: Of the output, for one example.
        features: Channels after the first halving; each further one doubles them.
        hidden: Width of the hidden dense layer.
        activation: A key of `layers.ACTIVATIONS`.
    """

    out_shape: tuple[int, ...]
    features: int = 32
    hidden: int = 256
    activation: str = "relu"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, context: Array | None = None) -> Array:
        """Maps x [B, H, W, C], context [B, K] or None to float32 [B, *out_shape].

        The context joins the image as K constant channels.
        """
        act, h = activation(self.activation), x
        if context is not None:
            planes = jnp.broadcast_to(
                context[:, None, None], (*x.shape[:3], context.shape[-1])
            )
            h = _join(x, planes)
        for i in range(num_halvings(*x.shape[1:3])):
            conv = Conv(
                self.features << i, (4, 4), (2, 2), dtype=self.dtype, name=f"conv_{i}"
            )
            h = act(conv(h))
        h = nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(
            h.reshape(len(h), -1)
        )
        h = nn.Dense(math.prod(self.out_shape), dtype=self.dtype, name="out")(act(h))
        return h.reshape(-1, *self.out_shape).astype(jnp.float32)


class ConvDecoder(nn.Module):
    """The mirror image of `ConvEncoder`: two dense layers, then transposed ones.

    Attributes:
        out_shape: (H, W, ...): the sides, and the numbers to give for each pixel.
        features: Channels before the last doubling; each earlier one has twice as many.
        hidden: Width of the hidden dense layer.
        activation: A key of `layers.ACTIVATIONS`.
    """

    out_shape: tuple[int, ...]
    features: int = 32
    hidden: int = 256
    activation: str = "relu"
    dtype: Any = None

    @nn.compact
    def __call__(self, z: Array, context: Array | None = None) -> Array:
        """Maps z [B, ...], context [B, K] or None to float32 [B, *out_shape]."""
        act = activation(self.activation)
        height, width, *pixel = self.out_shape
        count = num_halvings(height, width)
        bottom = (height >> count, width >> count, self.features << (count - 1))
        h = _join(z.reshape(len(z), -1), context)
        h = act(nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(h))
        h = nn.Dense(math.prod(bottom), dtype=self.dtype, name="project")(h)
        h = act(h).reshape(-1, *bottom)
        for i in reversed(range(count)):
            channels = self.features << (i - 1) if i else math.prod(pixel)
            h = ConvTranspose(channels, dtype=self.dtype, name=f"conv_{i}")(h)
            h = act(h) if i else h
        return h.reshape(-1, *self.out_shape).astype(jnp.float32)


class SharedScale(nn.Module):
    """A decoder of one number a pixel, and one learned number that all pixels share.

    Attributes:
        decoder: Gives [B, ..., 1].
    """

    decoder: nn.Module

    @nn.compact
    def __call__(self, z: Array, context: Array | None = None) -> Array:
        """Maps z [B, ...], context [B, K] or None to float32 [B, ..., 2]."""
        first = self.decoder(z, context)
        scale = self.param("log_scale", nn.initializers.zeros, ())
        return jnp.concatenate([first, jnp.broadcast_to(scale, first.shape)], -1)


class MixturePrior(nn.Module):
    """The parameters of a learned mixture of diagonal Gaussians.

    Attributes:
        num_components: K.
        features: D.
    """

    num_components: int
    features: int

    @nn.compact
    def __call__(self) -> tuple[Array, Array, Array]:
        """Gives logits [K], means [K, D] and log-variances [K, D]."""
        shape = (self.num_components, self.features)
        zeros = nn.initializers.zeros
        logits = self.param("logits", zeros, shape[:1])
        # Equal components would stay equal: their gradients are.
        mean = self.param("mean", nn.initializers.normal(1.0), shape)
        return logits, mean, self.param("log_var", zeros, shape)


def _join(h: Array, context: Array | None) -> Array:
    return h if context is None else jnp.concatenate([h, context], axis=-1)
