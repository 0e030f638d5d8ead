"""Gated PixelCNN: a stack for the rows above and one for the pixels on the left.

van den Oord et al., Conditional Image Generation with PixelCNN Decoders,
arXiv:1606.05328. It is sampled as `networks.pixelcnn` says; the vertical stack takes a
whole row at a time.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from genjax.networks.pixelcnn import CausalConv, Pointwise
from genjax.samplers.autoregressive import Position

ConvFn = Callable[[CausalConv, Array], Array]


def gate(x: Array) -> Array:
    """tanh(a) * sigmoid(b) of the two halves of the features.

    Reference: van den Oord et al., arXiv:1606.05328, Eq. 2.
    """
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.tanh(a) * nn.sigmoid(b)


class GatedLayer(nn.Module):
    """One layer of both stacks.

    Attributes:
        in_features: Channels of both inputs.
        features: p, channels of both outputs.
        kernel_size: n, odd and at least 3.
        first: The first layer sees the image and must hide the pixel itself, and has
            nothing to add its output to.
        groups: Parts of a pixel, see `networks.pixelcnn.group_mask`.

    Reference: van den Oord et al., arXiv:1606.05328, Fig. 2.
    """

    in_features: int
    features: int
    kernel_size: int
    first: bool = False
    groups: int = 1
    dtype: Any = None

    def setup(self) -> None:
        """Makes the layers."""
        half = self.kernel_size // 2
        features = 2 * self.features
        rows = half if self.first else half + 1  # Its rows come one down already.
        self.conv_v = CausalConv(
            self.in_features,
            features,
            (rows, self.kernel_size),
            right=half,
            dtype=self.dtype,
        )
        self.conv_h = CausalConv(
            self.in_features,
            features,
            (1, half + 1),
            mask="A" if self.first else "B",
            groups=self.groups,
            halves=2,
            dtype=self.dtype,
        )
        self.v_to_h = Pointwise(features, dtype=self.dtype)
        self.condition_v = nn.Dense(features, use_bias=False, dtype=self.dtype)
        self.condition_h = nn.Dense(features, use_bias=False, dtype=self.dtype)
        self.conv_out = Pointwise(self.features, self.groups, dtype=self.dtype)

    def vertical(
        self, v: Array, label: Array | None, conv_fn: ConvFn
    ) -> tuple[Array, Array]:
        """The output [..., p], and what the horizontal stack gets, [..., 2p]."""
        v, term_h = conv_fn(self.conv_v, v), 0.0
        if label is not None:
            axes = tuple(range(1, v.ndim - 1))
            v = v + jnp.expand_dims(self.condition_v(label), axes)
            term_h = jnp.expand_dims(self.condition_h(label), axes)
        return gate(v), self.v_to_h(v) + term_h

    def horizontal(self, h: Array, from_v: Array, conv_fn: ConvFn) -> Array:
        """The horizontal output [..., p]."""
        out = self.conv_out(gate(conv_fn(self.conv_h, h) + from_v))
        return out if self.first else h + out


class GatedPixelCNN(nn.Module):
    """Gated layers, the first with a larger kernel, then two 1 x 1 convolutions.

    Every pixel sees all pixels before it once there are layers enough.

    Attributes:
        in_features: Channels of the image.
        num_outputs: For each pixel.
        groups: Parts of a pixel that are drawn one after the other.
        features: p, width of both stacks.
        num_layers: Gated layers, the first included.
        kernel_size: n of all layers but the first.
        first_kernel_size: n of the first.
        out_features: Width of the 1 x 1 convolution before the last.

    Reference: van den Oord et al., arXiv:1606.05328, Sec. 2.
    """

    in_features: int
    num_outputs: int
    groups: int = 1
    features: int = 64
    num_layers: int = 8
    kernel_size: int = 3
    first_kernel_size: int = 7
    out_features: int = 64
    dtype: Any = None

    def setup(self) -> None:
        """Makes the layers."""
        options = dict(features=self.features, groups=self.groups, dtype=self.dtype)
        self.layers = [
            GatedLayer(
                in_features=self.features if i else self.in_features,
                kernel_size=self.kernel_size if i else self.first_kernel_size,
                first=not i,
                **options,
            )
            for i in range(self.num_layers)
        ]
        self.conv_mid = Pointwise(self.out_features, self.groups, dtype=self.dtype)
        self.conv_out = Pointwise(self.num_outputs, self.groups, dtype=self.dtype)

    def vertical(self, v: Array, label: Array | None, conv_fn: ConvFn) -> list[Array]:
        """What each layer of the vertical stack gives to the horizontal one.

        Args:
            v: The image, one row down, so that its row is the one above.
            label: One-hot [B, K] or None.
            conv_fn: Runs a convolution.
        """
        terms = []
        for layer in self.layers:
            v, term = layer.vertical(v, label, conv_fn)
            terms.append(term)
        return terms

    def horizontal(self, h: Array, terms: list[Array], conv_fn: ConvFn) -> Array:
        """The outputs from the image and what the vertical stack gives."""
        for layer, term in zip(self.layers, terms, strict=True):
            h = layer.horizontal(h, term, conv_fn)
        return self.conv_out(nn.relu(self.conv_mid(nn.relu(h))))

    def __call__(self, x: Array, label: Array | None = None, *, train: bool) -> Array:
        """Maps x [B, H, W, C], and one-hot labels [B, K], to [B, H, W, num_outputs]."""
        above = jnp.pad(x, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]
        terms = self.vertical(above, label, lambda conv, h: conv(h))
        return self.horizontal(x, terms, lambda conv, h: conv(h))

    def start(self, num: int, shape: tuple[int, int, int]) -> None:
        """Makes the caches of images [num, *shape]."""
        for layer in self.layers:
            layer.conv_v.start(num, shape[1])
            layer.conv_h.start(num, shape[1])
        blank = jnp.zeros((num, shape[1], 2 * self.features), self.dtype or jnp.float32)
        self.put_variable(
            "cache", "terms", dict.fromkeys(range(self.num_layers), blank)
        )

    def row(self, above: Array, label: Array | None, row: Array) -> None:
        """Runs the vertical stack for the next row, given the one above [N, W, C]."""
        terms = self.vertical(above, label, lambda conv, h: conv.row(h))
        self.put_variable("cache", "terms", dict(enumerate(terms)))
        for layer in self.layers:
            layer.conv_h.new_row()

    def step(self, last: Array, position: Position) -> Array:
        """Outputs [N, num_outputs] at a position, as `PixelCNN.step`."""
        if position.part == 0:
            self.layers[0].conv_h.put(last[:, None], position.column - 1)
            last = jnp.zeros_like(last)
        terms = self.get_variable("cache", "terms")
        here = [
            jax.lax.dynamic_index_in_dim(terms[i], position.column, 1, keepdims=False)
            for i in range(self.num_layers)
        ]
        return self.horizontal(last, here, lambda conv, h: conv.step(h, position))


class CodePixelCNN(GatedPixelCNN):
    """Gated PixelCNN over a grid of codes 0..K-1, which enter as learned vectors.

    Images have one channel: places 2 k / (K - 1) - 1 of codes k. Any further down hold
    no code, a vector of zeros, as all places outside the grid do.

    Attributes:
        in_features: Width of the vectors.
        num_codes: K, at least 2.
    """

    num_codes: int = 2

    def setup(self) -> None:
        """Makes the layers and the vectors."""
        super().setup()
        shape = (self.num_codes, self.in_features)
        self.vectors = self.param("vectors", nn.initializers.normal(1.0), shape)

    def embed(self, x: Array) -> Array:
        """Places [..., 1] to vectors [..., in_features]."""
        codes = jnp.round((x[..., 0] + 1) / 2 * (self.num_codes - 1)).astype(jnp.int32)
        (vectors,) = nn.dtypes.promote_dtype(self.vectors, dtype=self.dtype)
        return jax.nn.one_hot(codes, len(vectors), dtype=vectors.dtype) @ vectors

    def __call__(self, x: Array, label: Array | None = None, *, train: bool) -> Array:
        """Maps places x [B, h, w, 1] to [B, h, w, num_outputs]."""
        return super().__call__(self.embed(x), label, train=train)

    def row(self, above: Array, label: Array | None, row: Array) -> None:
        """As `GatedPixelCNN.row`, of places."""
        super().row(self.embed(above), label, row)

    def step(self, last: Array, position: Position) -> Array:
        """As `GatedPixelCNN.step`, of a place."""
        return super().step(self.embed(last), position)
