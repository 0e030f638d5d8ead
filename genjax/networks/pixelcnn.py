"""PixelCNN, and convolutions that see nothing of the pixels to come.

van den Oord et al., Pixel Recurrent Neural Networks, arXiv:1601.06759.

Each network here runs in two ways. Called, it takes whole images. For sampling it takes
a pixel at a time: `start` makes the collection "cache", in which each convolution keeps
the rows that it still needs of its input, `row` is called once before each row and
`step` once for each part of a pixel, at a `samplers.autoregressive.Position`.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from genjax.networks.convolution import direct_conv, pointwise
from genjax.samplers.autoregressive import Position

lecun_normal = nn.initializers.lecun_normal()


def group_mask(
    in_features: int, features: int, groups: int, *, strict: bool, halves: int = 1
) -> np.ndarray:
    """Which features of a pixel each feature of the same pixel may see, [in, out].

    Features fall into as many groups as a pixel has parts (R, G, B). A group sees those
    before it, and itself unless `strict` (mask A); features of several `halves` (of a
    gate) fall into groups in each half.

    Reference: van den Oord et al., arXiv:1601.06759, Sec. 3.4.
    """
    group_in = np.arange(in_features) * groups // in_features
    width = features // halves
    group_out = np.tile(np.arange(width) * groups // width, halves)
    order = np.less if strict else np.less_equal
    return order(group_in[:, None], group_out).astype(np.float32)


class Pointwise(nn.Module):
    """A 1 x 1 convolution with mask B, of images [B, H, W, C] or pixels [N, C]."""

    features: int
    groups: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [..., C] to [..., features]."""
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", lecun_normal, shape)
        bias = self.param("bias", nn.initializers.zeros, shape[1:])
        if self.groups > 1:
            kernel = kernel * group_mask(*shape, self.groups, strict=False)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return pointwise(x, kernel) + bias


class CausalConv(nn.Module):
    """A convolution over rows up to a pixel's own.

    Attributes:
        in_features: Channels of the input.
        features: Channels of the output.
        kernel_size: Rows, of which the last is the pixel's own, and columns.
        right: Columns that lie right of the pixel's own.
        mask: "none", or of the pixel's own row "A" or "B": both hide what lies right,
            and "A" the pixel itself, but for the groups before.
        groups: Parts of a pixel, see `group_mask`.
        halves: See `group_mask`.
        stride: Only rows and columns that it divides get an output. `step` computes one
            anywhere, and it is the caller's to leave the others.
    """

    in_features: int
    features: int
    kernel_size: tuple[int, int]
    right: int = 0
    mask: str = "none"
    groups: int = 1
    halves: int = 1
    stride: int = 1
    kernel_init: Callable = lecun_normal
    dtype: Any = None

    def setup(self) -> None:
        """Makes the parameters."""
        shape = (*self.kernel_size, self.in_features, self.features)
        self.kernel = self.param("kernel", self.kernel_init, shape)
        self.bias = self.param("bias", nn.initializers.zeros, (self.features,))

    @property
    def left(self) -> int:
        """Columns left of the pixel's own."""
        return self.kernel_size[1] - 1 - self.right

    def weights(self) -> tuple[Array, Array]:
        """The kernel, masked, and the bias."""
        kernel = self.kernel
        if self.mask != "none":
            mask = np.ones(kernel.shape, np.float32)
            mask[-1, self.left + 1 :] = 0
            mask[-1, self.left] = group_mask(
                self.in_features,
                self.features,
                self.groups,
                strict=self.mask == "A",
                halves=self.halves,
            )
            kernel = kernel * mask
        return nn.dtypes.promote_dtype(kernel, self.bias, dtype=self.dtype)

    def __call__(self, x: Array) -> Array:
        """Maps x [B, H, W, in_features] to [B, H', W', features], H' = H / stride."""
        kernel, bias = self.weights()
        pads = ((self.kernel_size[0] - 1, 0), (self.left, self.right))
        conv = direct_conv((self.stride, self.stride), pads)
        return conv(x.astype(kernel.dtype), kernel) + bias

    def start(self, num: int, width: int) -> None:
        """Makes the cache for images of that width: the rows under the kernel."""
        shape = (num, self.kernel_size[0], width + self.left + self.right)
        dtype = self.weights()[0].dtype
        self.put_variable("cache", "rows", jnp.zeros((*shape, self.in_features), dtype))
        if self.groups > 1:
            self.put_variable("cache", "past", jnp.zeros((num, self.features), dtype))

    def new_row(self) -> None:
        """Moves the rows up, and makes room for the next."""
        rows = self.get_variable("cache", "rows")
        rows = jnp.concatenate([rows[:, 1:], jnp.zeros_like(rows[:, :1])], axis=1)
        self.put_variable("cache", "rows", rows)

    def row(self, x: Array) -> Array:
        """A row of the output, [N, W', features], from that of the input."""
        self.new_row()
        self.put(x, jnp.int32(0))
        kernel, bias = self.weights()
        rows = self.get_variable("cache", "rows")
        conv = direct_conv((1, self.stride), ((0, 0), (0, 0)))
        return conv(rows, kernel)[:, 0] + bias

    def put(self, x: Array, column: Array) -> None:
        """Writes pixels [N, w, in_features] into the lowest row, from a column on."""
        rows = self.get_variable("cache", "rows")
        place = (0, rows.shape[1] - 1, column + self.left, 0)
        rows = jax.lax.dynamic_update_slice(rows, x[:, None].astype(rows.dtype), place)
        self.put_variable("cache", "rows", rows)

    def step(self, x: Array, position: Position) -> Array:
        """The output's pixel [N, features] from the input's, the last one that counts.

        What a pixel's first part has summed over the other pixels serves all its parts.
        """
        kernel, bias = self.weights()
        column, part = position.column, position.part
        if self.groups == 1:
            self.put(x[:, None], column)
            return self.sum(kernel, column) + bias
        if part == 0:  # The pixel's own place holds zeros still.
            self.put_variable("cache", "past", self.sum(kernel, column) + bias)
        self.put(x[:, None], column)
        past = self.get_variable("cache", "past")
        return past + x.astype(kernel.dtype) @ kernel[-1, self.left]

    def sum(self, kernel: Array, column: Array) -> Array:
        """The products with what is cached around a column, [N, features]."""
        rows = self.get_variable("cache", "rows")
        window = jax.lax.dynamic_slice_in_dim(rows, column, kernel.shape[1], axis=2)
        return window.reshape(len(rows), -1) @ kernel.reshape(-1, self.features)


class ResidualBlock(nn.Module):
    """2h -> h -> h -> 2h features, with a 3 x 3 convolution in the middle.

    Reference: van den Oord et al., arXiv:1601.06759, Fig. 5, left.
    """

    features: int
    groups: int = 1
    dtype: Any = None

    def setup(self) -> None:
        """Makes the layers."""
        options = dict(groups=self.groups, dtype=self.dtype)
        self.conv_in = Pointwise(self.features, **options)
        self.conv = CausalConv(
            self.features, self.features, (2, 3), right=1, mask="B", **options
        )
        self.conv_out = Pointwise(2 * self.features, **options)

    def __call__(self, x: Array, conv_fn: Callable[[CausalConv, Array], Array]):
        """Maps [..., 2h] to the same shape; conv_fn runs the convolution."""
        h = self.conv_in(nn.relu(x))
        h = conv_fn(self.conv, nn.relu(h))
        return x + self.conv_out(nn.relu(h))


class PixelCNN(nn.Module):
    """A 7 x 7 convolution with mask A, residual blocks and two 1 x 1 convolutions.

    Its receptive field has a blind spot: what lies above and further right than 3 x 3
    kernels climb is not seen.

    Attributes:
        in_features: Channels of the image.
        num_outputs: For each pixel.
        groups: Parts of a pixel that are drawn one after the other.
        features: h; between the blocks there are 2h.
        num_blocks: Residual blocks.
        out_features: Width of the 1 x 1 convolution before the last.

    Reference: van den Oord et al., arXiv:1601.06759, Table 1.
    """

    in_features: int
    num_outputs: int
    groups: int = 1
    features: int = 16
    num_blocks: int = 7
    out_features: int = 32
    dtype: Any = None

    def setup(self) -> None:
        """Makes the layers."""
        options = dict(groups=self.groups, dtype=self.dtype)
        self.conv_in = CausalConv(
            self.in_features, 2 * self.features, (4, 7), right=3, mask="A", **options
        )
        self.blocks = [
            ResidualBlock(self.features, **options) for _ in range(self.num_blocks)
        ]
        self.conv_mid = Pointwise(self.out_features, **options)
        self.conv_out = Pointwise(self.num_outputs, **options)

    def body(self, x: Array, conv_fn: Callable[[CausalConv, Array], Array]) -> Array:
        """All layers, whole or a pixel at a time."""
        h = conv_fn(self.conv_in, x)
        for block in self.blocks:
            h = block(h, conv_fn)
        return self.conv_out(nn.relu(self.conv_mid(nn.relu(h))))

    def __call__(self, x: Array, label: Array | None = None, *, train: bool) -> Array:
        """Maps x [B, H, W, C] to outputs [B, H, W, num_outputs]; takes no label."""
        return self.body(x, lambda conv, h: conv(h))

    def convs(self) -> list[CausalConv]:
        """Those that keep a cache."""
        return [self.conv_in, *(block.conv for block in self.blocks)]

    def start(self, num: int, shape: tuple[int, int, int]) -> None:
        """Makes the caches of images [num, *shape]."""
        for conv in self.convs():
            conv.start(num, shape[1])

    def row(self, above: Array, label: Array | None, row: Array) -> None:
        """Moves on to the next row; `above` [N, W, C] is the one that is complete."""
        self.conv_in.put(above, jnp.int32(0))
        for conv in self.convs():
            conv.new_row()

    def step(self, last: Array, position: Position) -> Array:
        """Outputs [N, num_outputs] at a position, of which those of its part count.

        Args:
            last: The pixel on the left, or from part 1 on this one so far, [N, C].
            position: Where.
        """
        if position.part == 0:
            self.conv_in.put(last[:, None], position.column - 1)
            last = jnp.zeros_like(last)
        return self.body(last, lambda conv, h: conv.step(h, position))
