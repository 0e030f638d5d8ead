"""Networks that give examples an energy, and scores of points.

Spectral norms bound how steep an energy is, so that Langevin steps stay small. The last
layer has no bias: a constant changes no density, and no gradient need reach it.

Reference: Du & Mordatch, arXiv:1903.08689, Sec. 3.3 and App. A.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from genjax.networks import rematerialisation
from genjax.networks.layers import (
    Conv,
    activation,
    downsample_mean,
    sinusoidal_embedding,
    zeros,
)
from genjax.networks.resnet_gan import check_size, normalised


class EnergyBlock(nn.Module):
    """Residual block without batch statistics; with `down`, one that halves the size.

    Labels scale and shift what comes in, if there are any.
    """

    features: int
    down: bool
    norm: str
    activation: str
    num_classes: int | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, label: Array | None, *, train: bool) -> Array:
        """Maps x [B, H, W, C] to [B, H', W', features]."""
        act, h = activation(self.activation), x
        if self.num_classes is not None:
            table = nn.Embed(
                self.num_classes, 2 * x.shape[-1], embedding_init=zeros, name="label"
            )
            scale, shift = jnp.split(table(label)[:, None, None], 2, axis=-1)
            h = (h * (1 + scale) + shift).astype(x.dtype)
        for end in ("in", "out"):
            conv = Conv(self.features, dtype=self.dtype, name=f"conv_{end}")
            h = normalised(conv, act(h), self.norm, train=train)
        if x.shape[-1] != self.features:
            skip = Conv(self.features, (1, 1), dtype=self.dtype, name="skip")
            x = normalised(skip, x, self.norm, train=train)
        return downsample_mean(x + h) if self.down else x + h


class ConvEnergy(nn.Module):
    """A residual network from images to energies, summed over places at the end.

    The paper's for CIFAR-10 has features=(128, 256, 256) and num_blocks=2.

    Attributes:
        features: Width of each level; the first block of each halves height and width.
        num_blocks: Residual blocks per level.
        norm: "spectral", of every weight, or "none".
        activation: A key of `layers.ACTIVATIONS`.
        num_classes: K, for a scale and a shift by label in each block; None takes no
            label.
    """

    features: Sequence[int] = (128, 256, 256)
    num_blocks: int = 1
    norm: str = "spectral"
    activation: str = "leaky_relu"
    num_classes: int | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None, *, train: bool) -> Array:
        """Maps x [B, H, W, C] and int labels [B] to float32 energies [B]."""
        check_size(x.shape[1:], len(self.features))
        conv = Conv(self.features[0], dtype=self.dtype, name="in")
        h = normalised(conv, x, self.norm, train=train)
        for level, features in enumerate(self.features):
            for i in range(self.num_blocks):
                block = EnergyBlock(
                    features,
                    down=i == 0,
                    norm=self.norm,
                    activation=self.activation,
                    num_classes=self.num_classes,
                    dtype=self.dtype,
                    name=f"level_{level}_block_{i}",
                )
                h = rematerialisation.apply(block, h, label, train=train)
        h = activation(self.activation)(h).astype(jnp.float32).sum(axis=(1, 2))
        out = nn.Dense(1, use_bias=False, name="out")
        return normalised(out, h, self.norm, train=train)[:, 0]


class StridedEnergy(nn.Module):
    """Convolutions with stride 2, then a dense layer, from images to energies.

    Smooth and cheap: a tenth of the work of `ConvEnergy` of the same width.

    Attributes:
        features: Width of each convolution, which halves height and width, rounded up.
        dense_features: Width of the dense layer.
        norm: "spectral", of every weight, or "none".
        activation: A key of `layers.ACTIVATIONS`.
        num_classes: K, for a shift of each layer by label; None takes no label.

    Reference: Nijkamp et al., On the Anatomy of MCMC-Based Maximum Likelihood Learning
        of Energy-Based Models, arXiv:1903.12370, whose networks are such.
    """

    features: Sequence[int] = (32, 64, 128)
    dense_features: int = 128
    norm: str = "none"
    activation: str = "silu"
    num_classes: int | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None, *, train: bool) -> Array:
        """Maps x [B, H, W, C] and int labels [B] to float32 energies [B]."""
        if x.ndim != 4:
            raise ValueError(f"images [B, H, W, C] are needed, got shape {x.shape}")
        act = activation(self.activation)

        def shift(h: Array, name: str) -> Array:
            if self.num_classes is None:
                return h
            table = nn.Embed(self.num_classes, h.shape[-1], dtype=h.dtype, name=name)
            return h + jnp.expand_dims(table(label), range(1, h.ndim - 1))

        for i, width in enumerate(self.features):
            conv = Conv(width, (4, 4), (2, 2), dtype=self.dtype, name=f"conv_{i}")
            x = normalised(conv, x, self.norm, train=train)
            x = act(shift(x, f"label_{i}"))
        dense = nn.Dense(self.dense_features, dtype=self.dtype, name="dense")
        h = normalised(dense, x.reshape(len(x), -1), self.norm, train=train)
        h = act(shift(h, "label_dense")).astype(jnp.float32)
        out = nn.Dense(1, use_bias=False, name="out")
        return normalised(out, h, self.norm, train=train)[:, 0]


class MLPEnergy(nn.Module):
    """A multilayer perceptron from points or images to energies.

    Attributes:
        features: Widths of the hidden layers, at least one.
        norm: "spectral", of every weight, or "none".
        activation: A key of `layers.ACTIVATIONS`. Smooth ones have smooth scores.
        num_classes: K, for a shift of the first layer by label; None takes no label.
    """

    features: Sequence[int] = (128, 128, 128)
    norm: str = "none"
    activation: str = "silu"
    num_classes: int | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None, *, train: bool) -> Array:
        """Maps x [B, ...] and int labels [B] to float32 energies [B]."""
        if not self.features:
            raise ValueError("features must name the width of a hidden layer, got ()")
        h = x.reshape(len(x), -1)
        for i, width in enumerate(self.features):
            dense = nn.Dense(width, dtype=self.dtype, name=f"dense_{i}")
            h = normalised(dense, h, self.norm, train=train)
            if i == 0 and self.num_classes is not None:
                h += nn.Embed(self.num_classes, width, name="label")(label)
            h = activation(self.activation)(h)
        out = nn.Dense(1, use_bias=False, name="out")
        return normalised(out, h.astype(jnp.float32), self.norm, train=train)[:, 0]


class TimeMLP(nn.Module):
    """A multilayer perceptron of points whose hidden layers are shifted by a time.

    Attributes:
        features: Widths of the hidden layers.
        out_features: Of the output.
        activation: A key of `layers.ACTIVATIONS`.
        time_features: Width of the time's embedding.
    """

    features: Sequence[int] = (128, 128, 128)
    out_features: int = 2
    activation: str = "silu"
    time_features: int = 64
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, t: Array, *, train: bool) -> Array:
        """Maps points x [B, D] at times t [B], as of steps, to [B, out_features]."""
        act = activation(self.activation)
        emb = sinusoidal_embedding(t, self.time_features)
        emb = act(nn.Dense(self.time_features, dtype=self.dtype, name="time")(emb))
        for i, width in enumerate(self.features):
            h = nn.Dense(width, dtype=self.dtype, name=f"dense_{i}")(x)
            x = act(h + nn.Dense(width, dtype=self.dtype, name=f"time_{i}")(emb))
        out = nn.Dense(self.out_features, name="out")
        return out(x.astype(jnp.float32))
