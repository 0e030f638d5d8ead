"""PixelCNN++: two streams of gated residual blocks at several resolutions.

Salimans et al., PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture
Likelihood and Other Modifications, arXiv:1701.05517.

The stream "down" sees the rows above, "right" also what lies left in the pixel's own
row. It is sampled as `networks.pixelcnn` says: "down" takes a whole row at a time, and
a level of half the resolution runs at every second row and column alone.

Departures from the authors' code: weights are not normalised, and their initial values
do not depend on data.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from genjax.networks.layers import ConvTranspose
from genjax.networks.pixelcnn import CausalConv, Pointwise
from genjax.samplers.autoregressive import Position

ConvFn = Callable[[CausalConv, Array], Array]
# A hundredth of the usual variance, so that a residual block changes little at first.
small_normal = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")


def concat_elu(x: Array) -> Array:
    """ELUs of the features and of their negatives, [..., C] to [..., 2 C]."""
    return nn.elu(jnp.concatenate([x, -x], axis=-1))


def whole(conv: CausalConv, x: Array) -> Array:
    """The convolution of whole images."""
    return conv(x)


class GatedResidual(nn.Module):
    """A residual block of one stream: two convolutions, the second with a gate.

    Attributes:
        features: Channels in and out.
        kernel_size: Rows and columns, see `CausalConv`.
        right: Columns right of the pixel's own.
        dropout: Rate, between the convolutions.
    """

    features: int
    kernel_size: tuple[int, int]
    right: int
    dropout: float = 0.0
    dtype: Any = None

    def setup(self) -> None:
        """Makes the layers."""
        options = dict(
            in_features=2 * self.features,
            kernel_size=self.kernel_size,
            right=self.right,
            dtype=self.dtype,
        )
        self.conv_in = CausalConv(features=self.features, **options)
        self.conv_out = CausalConv(
            features=2 * self.features, kernel_init=small_normal, **options
        )
        self.drop = nn.Dropout(self.dropout)

    def __call__(
        self, x: Array, term: Array | float, conv_fn: ConvFn, *, train: bool
    ) -> Array:
        """Maps x [..., features] to the same shape; `term` joins within the block."""
        h = concat_elu(conv_fn(self.conv_in, concat_elu(x)) + term)
        h = self.drop(h, deterministic=not train)
        a, b = jnp.split(conv_fn(self.conv_out, h), 2, axis=-1)
        return x + a * nn.sigmoid(b)

    def convs(self) -> tuple[CausalConv, CausalConv]:
        """Those that keep a cache."""
        return self.conv_in, self.conv_out


class Block(nn.Module):
    """A residual block of either stream, and what joins their first convolutions.

    Into both come a label and a short-cut; into "right" comes "down", too. The authors'
    code adds the label to the second convolution.

    Attributes:
        features: Channels of each stream.
        dropout: See `GatedResidual`.

    Reference: Salimans et al., arXiv:1701.05517, Sec. 2.3 and 2.4.
    """

    features: int
    dropout: float = 0.0
    dtype: Any = None

    def setup(self) -> None:
        """Makes the layers."""
        options = dict(dropout=self.dropout, dtype=self.dtype)
        self.down = GatedResidual(self.features, (2, 3), right=1, **options)
        self.right = GatedResidual(self.features, (2, 2), right=0, **options)
        self.down_to_right = Pointwise(self.features, dtype=self.dtype)
        self.skip_down = nn.Dense(self.features, use_bias=False, dtype=self.dtype)
        self.skip_right = nn.Dense(self.features, use_bias=False, dtype=self.dtype)
        self.label_down = nn.Dense(self.features, use_bias=False, dtype=self.dtype)
        self.label_right = nn.Dense(self.features, use_bias=False, dtype=self.dtype)

    def run_down(
        self,
        x: Array,
        skip: Array | None,
        label: Array | None,
        conv_fn: ConvFn,
        *,
        train: bool = False,
    ) -> tuple[Array, Array]:
        """The output [..., features] of "down", and what "right" gets of it."""
        term = self.of_label(self.label_down, label, x.ndim)
        if skip is not None:
            term = term + self.skip_down(concat_elu(skip))
        x = self.down(x, term, conv_fn, train=train)
        to_right = self.down_to_right(concat_elu(x))
        to_right = to_right + self.of_label(self.label_right, label, x.ndim)
        return x, to_right

    def of_label(
        self, layer: nn.Module, label: Array | None, num_axes: int
    ) -> Array | float:
        """What a label [B, K] adds, [B, ..., features]; 0 without one."""
        if label is None:
            return 0.0
        return jnp.expand_dims(layer(label), tuple(range(1, num_axes - 1)))

    def run_right(
        self,
        x: Array,
        skip: Array | None,
        from_down: Array,
        conv_fn: ConvFn,
        *,
        train: bool = False,
    ) -> Array:
        """The output [..., features] of "right"."""
        if skip is not None:
            from_down = from_down + self.skip_right(concat_elu(skip))
        return self.right(x, from_down, conv_fn, train=train)


class Level(nn.Module):
    """Blocks at one resolution, with a level of half the resolution in their middle.

    Each block after the middle has a short-cut from one before it.

    Attributes:
        features: Channels of each stream.
        num_blocks: Before the middle, and after it at the lowest resolution; there is
            one more after it elsewhere.
        num_levels: This one and those below.
        dropout: See `GatedResidual`.

    Reference: Salimans et al., arXiv:1701.05517, Fig. 2.
    """

    features: int
    num_blocks: int
    num_levels: int
    dropout: float = 0.0
    dtype: Any = None

    def setup(self) -> None:
        """Makes the layers."""
        lowest, block = self.num_levels == 1, (self.features, self.dropout, self.dtype)
        self.before = [Block(*block) for _ in range(self.num_blocks)]
        self.after = [Block(*block) for _ in range(self.num_blocks + (not lowest))]
        if lowest:
            return
        options = dict(stride=2, dtype=self.dtype)
        sizes = (self.features, self.features)
        self.shrink_down = CausalConv(*sizes, (2, 3), right=1, **options)
        self.shrink_right = CausalConv(*sizes, (2, 2), **options)
        self.below = Level(
            self.features,
            self.num_blocks,
            self.num_levels - 1,
            self.dropout,
            self.dtype,
        )
        self.grow_down = ConvTranspose(self.features, (2, 3), dtype=self.dtype)
        self.grow_right = ConvTranspose(self.features, (2, 2), dtype=self.dtype)

    def run(
        self,
        x: Any,
        block_fn: Callable[[Block, Any, Any], Any],
        below_fn: Callable[[Any], Any],
    ) -> Any:
        """All blocks in order, on either stream or on both.

        Args:
            x: The input of the first.
            block_fn: (block, its input, short-cut or None) -> its output.
            below_fn: The way through half the resolution and back.
        """
        seen = [x]
        for block in self.before:
            seen.append(block_fn(block, seen[-1], None))
        x = seen.pop() if self.num_levels == 1 else below_fn(seen[-1])
        for block in self.after:
            x = block_fn(block, x, seen.pop())
        return x

    def __call__(
        self, down: Array, right: Array, label: Array | None, *, train: bool
    ) -> tuple[Array, Array]:
        """Maps both streams [B, H, W, features] to the same shape."""

        def block_fn(block, x, skip):
            (down, right), (a, b) = x, (None, None) if skip is None else skip
            down, term = block.run_down(down, a, label, whole, train=train)
            return down, block.run_right(right, b, term, whole, train=train)

        def below_fn(x):
            small = self.shrink_down(x[0]), self.shrink_right(x[1])
            small = self.below(*small, label, train=train)
            height, width = down.shape[1:3]
            large = self.grow_down(small[0]), self.grow_right(small[1])
            return tuple(y[:, :height, :width] for y in large)

        return self.run((down, right), block_fn, below_fn)

    def start(self, num: int, width: int) -> None:
        """Makes the caches of rows [num, width, features]."""
        blocks = [*self.before, *self.after]
        for block in blocks:
            for conv in (*block.down.convs(), *block.right.convs()):
                conv.start(num, width)
        blank = jnp.zeros((num, width, self.features), self.dtype or jnp.float32)
        terms = dict.fromkeys(range(len(blocks)), blank)
        self.put_variable("cache", "terms", terms)
        if self.num_levels > 1:
            self.shrink_down.start(num, width)
            self.shrink_right.start(num, width)
            self.below.start(num, (width + 1) // 2)
            blank = blank[:, ::2]
            self.put_variable("cache", "small", {"down": blank, "right": blank})

    def row(self, x: Array, label: Array | None, row: Array) -> Array:
        """Maps the next row of "down" [N, W, features]; keeps what "right" needs."""
        terms = []

        def block_fn(block, x, skip):
            x, term = block.run_down(x, skip, label, lambda conv, h: conv.row(h))
            terms.append(term)
            for conv in block.right.convs():
                conv.new_row()
            return x

        def below_fn(x):
            self.shrink_right.new_row()
            small, kept = self.shrink_down.row(x), self.get_variable("cache", "small")
            small = nn.cond(
                row % 2 == 0,
                lambda below, small: below.row(small, label, row // 2),
                lambda below, small: kept["down"],
                self.below,
                small,
            )
            self.put_variable("cache", "small", {**kept, "down": small})
            large = self.grow_down(small[:, None])
            return large[:, row % 2, : x.shape[1]]

        x = self.run(x, block_fn, below_fn)
        self.put_variable("cache", "terms", dict(enumerate(terms)))
        return x

    def step(self, x: Array, position: Position) -> Array:
        """Maps the next pixel of "right", [N, features]."""
        row, column, _ = position
        rows = self.get_variable("cache", "terms")
        terms = iter([at(rows[i], column) for i in range(len(rows))])

        def block_fn(block, x, skip):
            term = next(terms)
            return block.run_right(x, skip, term, lambda c, h: c.step(h, position))

        def below_fn(x):
            kept, here = self.get_variable("cache", "small"), column // 2
            small = nn.cond(
                (row % 2 == 0) & (column % 2 == 0),
                lambda below, x: below.step(x, Position(row // 2, here, 0)),
                lambda below, x: at(kept["right"], here),
                self.below,
                self.shrink_right.step(x, position),
            )
            right = jax.lax.dynamic_update_index_in_dim(kept["right"], small, here, 1)
            self.put_variable("cache", "small", {**kept, "right": right})
            return self.grow_right(small[:, None, None])[:, row % 2, column % 2]

        return self.run(x, block_fn, below_fn)


def at(rows: Array, column: Array) -> Array:
    """[N, W, C] to [N, C]."""
    return jax.lax.dynamic_index_in_dim(rows, column, axis=1, keepdims=False)


class PixelCNNPP(nn.Module):
    """Shifted convolutions, blocks at several resolutions and a 1 x 1 convolution.

    The image gets a channel of ones, which tells it from the zeros around it. All
    channels of a pixel are drawn at once.

    Attributes:
        in_features: Channels of the image.
        num_outputs: For each pixel.
        features: Channels of each stream.
        num_blocks: See `Level`.
        num_levels: Resolutions, each half the one before; odd sides are rounded up.
        dropout: Rate, in each block.

    Reference: Salimans et al., arXiv:1701.05517, Sec. 2.2 to 2.5.
    """

    in_features: int
    num_outputs: int
    features: int = 64
    num_blocks: int = 2
    num_levels: int = 3
    dropout: float = 0.0
    dtype: Any = None

    def setup(self) -> None:
        """Makes the layers."""

        def conv(kernel_size: tuple[int, int], right: int) -> CausalConv:
            sizes = self.in_features + 1, self.features, kernel_size
            return CausalConv(*sizes, right=right, dtype=self.dtype)

        self.conv_down = conv((2, 3), right=1)
        self.conv_above = conv((1, 3), right=1)
        self.conv_left = conv((2, 1), right=0)
        self.level = Level(
            self.features,
            self.num_blocks,
            self.num_levels,
            self.dropout,
            self.dtype,
        )
        self.conv_out = Pointwise(self.num_outputs, dtype=self.dtype)

    def __call__(self, x: Array, label: Array | None = None, *, train: bool) -> Array:
        """Maps x [B, H, W, C], and one-hot labels [B, K], to [B, H, W, num_outputs]."""
        x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
        above = jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]
        left = jnp.pad(x, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1]
        right = self.conv_above(above) + self.conv_left(left)
        _, right = self.level(self.conv_down(above), right, label, train=train)
        return self.conv_out(nn.elu(right))

    def start(self, num: int, shape: tuple[int, int, int]) -> None:
        """Makes the caches of images [num, *shape]."""
        for conv in (self.conv_down, self.conv_above, self.conv_left):
            conv.start(num, shape[1])
        self.level.start(num, shape[1])
        dtype = self.dtype or jnp.float32
        blank = jnp.zeros((num, shape[1], self.features), dtype)
        self.put_variable("cache", "above", blank)

    def row(self, above: Array, label: Array | None, row: Array) -> None:
        """Runs "down" for the next row, given the one above [N, W, C]."""
        above = with_ones(above, row > 0)
        self.put_variable("cache", "above", self.conv_above.row(above))
        self.conv_left.new_row()
        self.level.row(self.conv_down.row(above), label, row)

    def step(self, last: Array, position: Position) -> Array:
        """Outputs [N, num_outputs] at a position; `last` [N, C] is the pixel left."""
        last = with_ones(last, position.column > 0)
        above = at(self.get_variable("cache", "above"), position.column)
        right = above + self.conv_left.step(last, position)
        return self.conv_out(nn.elu(self.level.step(right, position)))


def with_ones(x: Array, inside: Array) -> Array:
    """Adds the channel that tells the image from what is around it."""
    ones = jnp.broadcast_to(inside.astype(x.dtype), (*x.shape[:-1], 1))
    return jnp.concatenate([x, ones], axis=-1)
