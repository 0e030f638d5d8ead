"""Residual generators and discriminators of small images.

Those of WGAN-GP and SNGAN for CIFAR-10 are the defaults and

    Generator((32, 32, 3), features=(256, 256, 256))
    Discriminator(norm="spectral", pool="sum")

Both follow the authors' code: images are doubled before a block's first convolution and
halved after its second; the paper of WGAN-GP says that they are doubled before the
second.

References:
    Gulrajani et al., Improved Training of Wasserstein GANs, arXiv:1704.00028, App. F.
    Miyato et al., Spectral Normalization for GANs, arXiv:1802.05957, Table 4.
    Miyato & Koyama, cGANs with Projection Discriminator, arXiv:1802.05637.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from genjax.networks import rematerialisation
from genjax.networks.convolution import upsample_nearest
from genjax.networks.layers import Conv, downsample_mean
from genjax.networks.normalization import BatchNorm, SpectralNorm

NORMS = ("none", "layer", "spectral")
POOLS = {"mean": jnp.mean, "sum": jnp.sum}
GLOROT = nn.initializers.glorot_uniform()
# Twice the variance before a ReLU, which drops half of it.
HE = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")


class GeneratorBlock(nn.Module):
    """Residual block with batch norm that doubles height and width."""

    features: int
    num_classes: int | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, label: Array | None, *, train: bool) -> Array:
        """Maps x [B, H, W, C] to [B, 2H, 2W, features]."""
        h, dtype = x, self.dtype
        for end, upsample in [("in", True), ("out", False)]:
            norm = BatchNorm(self.num_classes, dtype=dtype, name=f"norm_{end}")
            h = nn.relu(norm(h, label, train=train))
            h = Conv(
                self.features,
                upsample=upsample,
                kernel_init=HE,
                dtype=dtype,
                name=f"conv_{end}",
            )(h)
        # A 1 x 1 convolution commutes with the repetition of pixels, and is cheaper.
        x = Conv(self.features, (1, 1), kernel_init=GLOROT, dtype=dtype, name="skip")(x)
        return upsample_nearest(x) + h


class Generator(nn.Module):
    """Latents to images: a dense layer, then residual blocks that double the size.

    Attributes:
        shape: Of one image, (H, W, C); H and W are multiples of 2^len(features).
        features: Width of each block; the dense layer has that of the first.
        num_classes: K, for a batch norm by class; None takes no label.
    """

    shape: tuple[int, int, int]
    features: tuple[int, ...] = (128, 128, 128)
    num_classes: int | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, z: Array, label: Array | None = None, *, train: bool) -> Array:
        """Maps latents z [B, D] and int labels [B] to float32 [B, H, W, C]."""
        check_size(self.shape, len(self.features))
        height, width, channels = self.shape
        scale = 2 ** len(self.features)
        base = (height // scale, width // scale, self.features[0])
        size = base[0] * base[1] * base[2]
        x = nn.Dense(size, kernel_init=GLOROT, dtype=self.dtype, name="in")(z)
        x = x.reshape(-1, *base)
        for i, features in enumerate(self.features):
            block = GeneratorBlock(
                features, self.num_classes, self.dtype, name=f"block_{i}"
            )
            x = rematerialisation.apply(block, x, label, train=train)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="norm")(x, train=train))
        out = Conv(channels, kernel_init=GLOROT, dtype=self.dtype, name="out")
        return jnp.tanh(out(x).astype(jnp.float32))


class DiscriminatorBlock(nn.Module):
    """Residual block, with `down` one that halves height and width.

    The `first` one sees pixels, which no activation or norm may precede.
    """

    features: int
    down: bool = False
    first: bool = False
    norm: str = "none"
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps x [B, H, W, C] to [B, H', W', features]."""
        h = x
        for end in ("in", "out"):
            if self.norm == "layer" and not self.first:
                h = nn.GroupNorm(1, dtype=self.dtype, name=f"norm_{end}")(h)
            if end == "out" or not self.first:
                h = nn.relu(h)
            conv = Conv(
                self.features, kernel_init=HE, dtype=self.dtype, name=f"conv_{end}"
            )
            h = normalised(conv, h, self.norm, train=train)
        learned = self.down or x.shape[-1] != self.features
        if self.down:
            h, x = downsample_mean(h), downsample_mean(x)
        if learned:
            skip = Conv(
                self.features,
                (1, 1),
                kernel_init=GLOROT,
                dtype=self.dtype,
                name="skip",
            )
            x = normalised(skip, x, self.norm, train=train)
        return x + h


class Discriminator(nn.Module):
    """Images to values: residual blocks, the first of which halve the size, and a pool.

    Attributes:
        features: Width of each block.
        num_down: Blocks that halve; H and W are multiples of 2^num_down.
        norm: "none"; "layer", over a whole image, in all blocks but the first; or
            "spectral", of every weight.
        pool: Over pixels at the end: "mean" (WGAN-GP) or "sum" (SNGAN).
        num_classes: K, for a projection of the label; None takes no label.
        num_outputs: Numbers said of each image.
        out_bias: Whether a constant is added to them. A Wasserstein critic is defined
            up to one, and no gradient would reach it.
    """

    features: tuple[int, ...] = (128, 128, 128, 128)
    num_down: int = 2
    norm: str = "none"
    pool: str = "mean"
    num_classes: int | None = None
    num_outputs: int = 1
    out_bias: bool = True
    dtype: Any = None

    @nn.nowrap
    def check(self, shape: tuple[int, ...]) -> None:
        """Raises ValueError unless the fields are right and images fit them."""
        if self.norm not in NORMS:
            raise ValueError(f"norm must be one of {NORMS}, got {self.norm!r}")
        if self.pool not in POOLS:
            raise ValueError(f"pool must be one of {sorted(POOLS)}, got {self.pool!r}")
        if not 0 <= self.num_down <= len(self.features):
            raise ValueError(
                f"num_down must be from 0 to the {len(self.features)} blocks of "
                f"features, got {self.num_down}"
            )
        check_size(shape, self.num_down)

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None, *, train: bool) -> Array:
        """Maps x [B, H, W, C] and int labels [B] to float32 values.

        They are [B] with one output, [B, num_outputs] with more.
        """
        self.check(x.shape[1:])
        for i, features in enumerate(self.features):
            block = DiscriminatorBlock(
                features,
                down=i < self.num_down,
                first=i == 0,
                norm=self.norm,
                dtype=self.dtype,
                name=f"block_{i}",
            )
            x = rematerialisation.apply(block, x, train=train)
        h = POOLS[self.pool](nn.relu(x).astype(jnp.float32), axis=(1, 2))
        out = nn.Dense(
            self.num_outputs,
            use_bias=self.out_bias,
            kernel_init=GLOROT,
            dtype=self.dtype,
            name="out",
        )
        values = normalised(out, h, self.norm, train=train).astype(jnp.float32)
        if self.num_classes is not None:
            embed = nn.Embed(self.num_classes, h.shape[-1], name="label")
            vectors = normalised(embed, label, self.norm, train=train)
            values += jnp.sum(vectors * h, axis=-1, keepdims=True)
        return values[:, 0] if self.num_outputs == 1 else values


def normalised(layer: nn.Module, x: Array, norm: str, *, train: bool) -> Array:
    """layer(x), with a spectral norm of its weight if `norm` says so."""
    if norm != "spectral":
        return layer(x)
    return SpectralNorm(layer, name=f"{layer.name}_spectral")(x, train=train)


def check_size(shape: tuple[int, ...], times: int) -> None:
    """Raises ValueError unless images of that shape halve so many times."""
    if len(shape) != 3 or any(n % 2**times for n in shape[:2]):
        raise ValueError(
            f"images [H, W, C] whose sides halve {times} times are needed, got {shape}"
        )
