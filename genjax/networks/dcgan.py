"""The generator and discriminator of DCGAN, for images of any size.

Radford et al., Unsupervised Representation Learning with Deep Convolutional GANs,
arXiv:1511.06434, Sec. 3: strided and transposed convolutions instead of pooling, batch
norm except at the generator's output and the discriminator's input, no hidden fully
connected layer, ReLU and tanh in the generator, LeakyReLU in the discriminator.

An image is halved while its sides stay even and at least 4, and features double each
time: 64 -> 4 by four levels as in the paper, 28 -> 7 by two. `levels` can ask for more,
by which odd sides round up: 28 -> 4 by three. Kernels are 4 x 4 with stride 2, where
the paper draws 5 x 5: 4 is a multiple of the stride, so that each pixel is made by
equally many taps and no checkerboard is built in.
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from genjax.networks.layers import ACTIVATIONS, Conv, ConvTranspose, num_halvings
from genjax.networks.normalization import SpectralNorm

NORMS = ("batch", "layer", "none")
leaky_relu = ACTIVATIONS["leaky_relu"]
normal_init = nn.initializers.normal(0.02)


def scale_init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """N(1, 0.02): the scale of batch norm in the authors' code."""
    return 1 + normal_init(key, shape, dtype)


def level_sizes(height: int, width: int, levels: int | None) -> list[tuple[int, int]]:
    """Sizes of an image and of its halves, rounded up: `levels` + 1 of them.

    Args:
        height: Of the image.
        width: Of the image.
        levels: Times to halve; None as `num_halvings` says.

    Raises:
        ValueError: If nothing is left to halve, or, with None, as `num_halvings`.
    """
    levels = num_halvings(height, width) if levels is None else levels
    if not 1 <= levels <= (min(height, width) - 1).bit_length():
        raise ValueError(f"{height}x{width} images do not halve {levels} times")
    return [(-(-height >> i), -(-width >> i)) for i in range(levels + 1)]


class Norm(nn.Module):
    """Batch norm, layer norm over a whole example, or nothing.

    Batch statistics average over about ten steps, since the weights of a GAN never
    settle and samples should be drawn with those of the present ones.

    Attributes:
        kind: "batch", "layer" or "none".
    """

    kind: str
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps x [B, H, W, C] to the same shape."""
        if self.kind == "none":
            return x
        if self.kind == "batch":
            return nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                scale_init=scale_init,
                dtype=self.dtype,
                name="batch",
            )(x)
        axes = tuple(range(1, x.ndim))
        return nn.LayerNorm(reduction_axes=axes, dtype=self.dtype, name="layer")(x)


def check_norm(norm: str, norms: tuple[str, ...]) -> None:
    """Raises ValueError for an unknown kind of norm."""
    if norm not in norms:
        raise ValueError(f"norm must be one of {sorted(norms)}, got {norm!r}")


class Generator(nn.Module):
    """Projects a latent onto a small map and doubles it by transposed convolutions.

    Attributes:
        shape: (H, W, C) of the images.
        features: Of the last hidden level; doubled at each level before.
        levels: Times that the size doubles; None as `num_halvings` says.
        norm: "batch", "layer" or "none".

    Reference: Radford et al., arXiv:1511.06434, Sec. 3 and Fig. 1.
    """

    shape: tuple[int, ...]
    features: int = 64
    levels: int | None = None
    norm: str = "batch"
    dtype: Any = None

    @nn.compact
    def __call__(self, z: Array, *, train: bool) -> Array:
        """Maps latents z [B, D] to images, float32 [B, H, W, C] in [-1, 1]."""
        check_norm(self.norm, NORMS)
        if len(self.shape) != 3:
            raise ValueError(f"DCGAN needs images [H, W, C], got {self.shape}")
        *sizes, small = level_sizes(*self.shape[:2], self.levels)
        bias = self.norm == "none"  # A norm takes away or adds its own.
        small = *small, self.features << (len(sizes) - 1)
        h = nn.Dense(
            math.prod(small),
            use_bias=bias,
            kernel_init=normal_init,
            dtype=self.dtype,
            name="project",
        )(z).reshape(-1, *small)
        for i, (height, width) in enumerate(reversed(sizes)):
            h = Norm(self.norm, self.dtype, name=f"norm_{i}")(h, train=train)
            last = i == len(sizes) - 1
            h = ConvTranspose(
                self.shape[-1] if last else self.features << (len(sizes) - 2 - i),
                use_bias=bias or last,
                kernel_init=normal_init,
                dtype=self.dtype,
                name="out" if last else f"deconv_{i}",
            )(nn.relu(h))
            # The transpose of the convolution that halves an odd side, rounding up.
            h = h[:, :height, :width]
        return jnp.tanh(h.astype(jnp.float32))


class Discriminator(nn.Module):
    """Halves an image by strided convolutions; a linear unit reads the last map.

    Attributes:
        features: Of the first level; doubled at each level after it.
        levels: Times that the size halves; None as `num_halvings` says.
        norm: "batch", "layer", "none", or "spectral", of every weight. A penalty on the
            gradient at each example rules out "batch", which makes examples depend on
            each other.
        num_outputs: Numbers said of each example.
        out_bias: Whether a constant is added to them. A Wasserstein critic is defined
            up to one, and no gradient would reach it.

    Reference: Radford et al., arXiv:1511.06434, Sec. 3.
    """

    features: int = 64
    levels: int | None = None
    norm: str = "batch"
    num_outputs: int = 1
    out_bias: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps images x [B, H, W, C] to float32 values.

        They are [B] with one output, [B, num_outputs] with more.
        """
        check_norm(self.norm, (*NORMS, "spectral"))
        h = x
        for i in range(len(level_sizes(*x.shape[1:3], self.levels)) - 1):
            normed = i > 0 and self.norm in ("batch", "layer")
            conv = Conv(
                self.features << i,
                (4, 4),
                (2, 2),
                use_bias=not normed,
                kernel_init=normal_init,
                dtype=self.dtype,
                name=f"conv_{i}",
            )
            h = self.apply_layer(conv, h, train=train)
            if normed:
                h = Norm(self.norm, self.dtype, name=f"norm_{i}")(h, train=train)
            h = leaky_relu(h)
        out = nn.Dense(
            self.num_outputs,
            use_bias=self.out_bias,
            kernel_init=normal_init,
            dtype=self.dtype,
            name="out",
        )
        values = self.apply_layer(out, h.reshape(len(h), -1), train=train)
        values = values.astype(jnp.float32)
        return values[:, 0] if self.num_outputs == 1 else values

    def apply_layer(self, layer: nn.Module, x: Array, *, train: bool) -> Array:
        """layer(x), with a spectral norm of its weight if there is to be one."""
        if self.norm != "spectral":
            return layer(x)
        return SpectralNorm(layer, name=f"{layer.name}_spectral")(x, train=train)
