"""The networks inside flows: of couplings, of learned priors and of velocities.

Their last layers start at zero, so that a flow starts near the identity. They may
compute in less than float32.

References:
    Dinh et al., Density estimation using Real NVP, arXiv:1605.08803.
    Kingma & Dhariwal, Glow, arXiv:1807.03039.
    Grathwohl et al., FFJORD, arXiv:1810.01367.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from genjax.networks.layers import Conv, activation, zeros

MANY = 8  # Residual blocks from which on one is compiled for all of them.


class DenseNet(nn.Module):
    """Hidden layers of an MLP, and a last layer that starts at zero.

    Attributes:
        features: Widths of the hidden layers.
        activation: A key of `layers.ACTIVATIONS`.
    """

    features: Sequence[int] = (128, 128)
    activation: str = "relu"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, out_features: int) -> Array:
        """Maps x [B, D] to [B, out_features]."""
        for i, width in enumerate(self.features):
            dense = nn.Dense(width, dtype=self.dtype, name=f"dense_{i}")
            x = activation(self.activation)(dense(x))
        out = nn.Dense(out_features, kernel_init=zeros, dtype=self.dtype, name="out")
        return out(x)


class ResBlock(nn.Module):
    """Two 3 x 3 convolutions, the second of which starts at zero, beside the identity.

    Attributes:
        features: Channels in and out.
        activation: A key of `layers.ACTIVATIONS`.
    """

    features: int
    activation: str = "relu"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps x [B, H, W, features] to the same shape."""
        act = activation(self.activation)
        h = Conv(self.features, dtype=self.dtype, name="conv_in")(act(x))
        out = Conv(self.features, kernel_init=zeros, dtype=self.dtype, name="conv_out")
        return x + out(act(h))


class ResNet(nn.Module):
    """Residual blocks of 3 x 3 convolutions, and a last one that starts at zero.

    Without the paper's batch and weight normalisation: each block starts as the
    identity instead. Eight blocks and more are one, "blocks", whose parameters have a
    leading axis.

    Attributes:
        features: Channels.
        num_blocks: Residual blocks.
        activation: A key of `layers.ACTIVATIONS`.

    Reference: Dinh et al., arXiv:1605.08803, Sec. 3.7 and App. A.
    """

    features: int = 64
    num_blocks: int = 2
    activation: str = "relu"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, out_features: int) -> Array:
        """Maps x [B, H, W, C] to [B, H, W, out_features]."""
        act = activation(self.activation)
        x = Conv(self.features, dtype=self.dtype, name="conv_in")(x)
        if self.num_blocks >= MANY:
            blocks = nn.scan(
                lambda block, x: (block(x), None),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=self.num_blocks,
            )
            block = ResBlock(
                self.features, self.activation, dtype=self.dtype, name="blocks"
            )
            x, _ = blocks(block, x)
        else:
            for i in range(self.num_blocks):
                h = Conv(self.features, dtype=self.dtype, name=f"block_{i}_in")(act(x))
                out = Conv(
                    self.features,
                    kernel_init=zeros,
                    dtype=self.dtype,
                    name=f"block_{i}",
                )
                x = x + out(act(h))
        out = Conv(out_features, kernel_init=zeros, dtype=self.dtype, name="out")
        return out(act(x))


class ConvNet(nn.Module):
    """3 x 3, 1 x 1 and 3 x 3 convolutions, the last of which starts at zero.

    Without the authors' activation normalisation after the first two.

    Attributes:
        features: Channels, 512 in the paper.
        activation: A key of `layers.ACTIVATIONS`.

    Reference: Kingma & Dhariwal, arXiv:1807.03039, App. B.
    """

    features: int = 512
    activation: str = "relu"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, out_features: int) -> Array:
        """Maps x [B, H, W, C] to [B, H, W, out_features]."""
        act = activation(self.activation)
        x = act(Conv(self.features, dtype=self.dtype, name="conv_in")(x))
        x = act(Conv(self.features, (1, 1), dtype=self.dtype, name="conv_hidden")(x))
        return Conv(out_features, kernel_init=zeros, dtype=self.dtype, name="out")(x)


class PlainNet(nn.Module):
    """3 x 3 convolutions, the last of which starts at zero.

    Attributes:
        features: Channels of the hidden layers.
        activation: A key of `layers.ACTIVATIONS`.

    Reference: Grathwohl et al., arXiv:1810.01367, App. B.1.
    """

    features: Sequence[int] = (64, 64, 64)
    activation: str = "softplus"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, out_features: int) -> Array:
        """Maps x [B, H, W, C] to [B, H, W, out_features]."""
        for i, width in enumerate(self.features):
            conv = Conv(width, dtype=self.dtype, name=f"conv_{i}")
            x = activation(self.activation)(conv(x))
        return Conv(out_features, kernel_init=zeros, dtype=self.dtype, name="out")(x)


class ZeroConv(nn.Module):
    """A 3 x 3 convolution that starts at zero, times exp(3 s) with learned s [C].

    Reference: Kingma & Dhariwal, arXiv:1807.03039, Sec. 3.3; exp(3 s) as in their code.
    """

    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, out_features: int) -> Array:
        """Maps x [B, H, W, C] to [B, H, W, out_features]."""
        conv = Conv(out_features, kernel_init=zeros, dtype=self.dtype, name="conv")
        scale = self.param("log_scale", zeros, (out_features,))
        return conv(x).astype(jnp.float32) * jnp.exp(3 * scale)


class Velocity(nn.Module):
    """A network of a place and a time, whose flow is a bijection.

    Attributes:
        net: A module (inputs, channels out) -> channels, with a smooth activation.

    Reference: Grathwohl et al., FFJORD, arXiv:1810.01367, App. B.1, where time is one
        more channel ("concat").
    """

    net: nn.Module

    @nn.compact
    def __call__(self, x: Array, t: Array) -> Array:
        """Maps x [B, ..., C] and a scalar t in [0, 1] to dx/dt of the same shape."""
        time = jnp.broadcast_to(t, (*x.shape[:-1], 1)).astype(x.dtype)
        out = self.net(jnp.concatenate([x, time], axis=-1), x.shape[-1])
        return out.astype(jnp.float32)


ON_VECTORS = {"mlp": DenseNet}
ON_IMAGES = {"resnet": ResNet, "conv": ConvNet, "plain": PlainNet}
