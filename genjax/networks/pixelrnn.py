"""Recurrent networks over the pixels of an image, in raster order.

van den Oord et al., Pixel Recurrent Neural Networks, arXiv:1601.06759.

Features are in `num_groups` equal groups, one for each channel of the image: at a
pixel, group g sees the channels before g (all of what comes before the pixel, too).
With one group no channel of the pixel itself is seen.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from genjax.networks import rematerialisation, stack
from genjax.networks.convolution import direct_conv
from genjax.networks.pixelcnn import group_mask

Cache = dict[str, Array]
WINDOW = 7  # Side of the first convolution.


def skew(x: Array) -> Array:
    """Moves row r to the right by r: [..., H, W, C] -> [..., H, W + H - 1, C]."""
    *batch, h, w, c = x.shape
    padded = jnp.pad(x, [(0, 0)] * (len(batch) + 1) + [(0, h), (0, 0)])
    flat = padded.reshape(*batch, h * (w + h), c)[..., : h * (w + h - 1), :]
    return flat.reshape(*batch, h, w + h - 1, c)


def unskew(x: Array, width: int) -> Array:
    """The inverse of `skew`: [..., H, W + H - 1, C] -> [..., H, W, C]."""
    *batch, h, w, c = x.shape
    flat = x.reshape(*batch, h * w, c)
    flat = jnp.pad(flat, [(0, 0)] * len(batch) + [(0, h), (0, 0)])
    return flat.reshape(*batch, h, w + 1, c)[..., :width, :]


def lstm(gates: Array, cell: Array) -> tuple[Array, Array]:
    """(state, cell) [..., D] from gates [..., 4 D] (out, forget, in, new) and cell.

    Reference: van den Oord et al., arXiv:1601.06759, Eq. 3.
    """
    out, forget, enter, new = jnp.split(gates, 4, axis=-1)
    cell = nn.sigmoid(forget) * cell + nn.sigmoid(enter) * jnp.tanh(new)
    return nn.sigmoid(out) * jnp.tanh(cell), cell


def forget_bias(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Zeros, but ones for the forget gates: cells remember from the start."""
    del key
    width = shape[-1] // 4
    return jnp.zeros(shape, dtype).at[..., width : 2 * width].set(1)


def tiled_mask(num_inputs: int, features: int, num_groups: int) -> np.ndarray:
    """Mask B from a map to the four gates, each of which is in groups of its own."""
    one = group_mask(num_inputs, features, num_groups, strict=False)
    return np.tile(one, (1, 4))


class _Layer(nn.Module):
    """What both recurrent layers share.

    Attributes:
        features: Width of a state; the map has twice as many channels.
        num_groups: Of channels.
    """

    features: int
    num_groups: int = 1
    dtype: Any = None

    def residual(self, x: Array, state: Array) -> Array:
        """The map plus what the states [..., D] add to it."""
        mask = group_mask(*self.out.shape, self.num_groups, strict=False)
        state, out, bias = self._cast(state, self.out * mask, self.out_bias)
        return x + state @ out + bias

    @nn.nowrap
    def _cast(self, *arrays: Array) -> list[Array]:
        return [x.astype(self.dtype or jnp.float32) for x in arrays]


class RowLSTM(_Layer):
    """A residual layer whose states go down the rows, three pixels wide.

    A pixel sees a triangle above it, and not all that comes before.

    Reference: van den Oord et al., arXiv:1601.06759, Sec. 3.1 and 3.3.
    """

    def setup(self):
        """Makes the parameters."""
        width, init = self.features, nn.initializers.lecun_normal()
        self.enter = self.param("enter", init, (2, 2 * width, 4 * width))
        self.bias = self.param("bias", forget_bias, (4 * width,))
        self.recur = self.param("recur", init, (3 * width, 4 * width))
        self.out = self.param("out", init, (width, 2 * width))
        self.out_bias = self.param("out_bias", nn.initializers.zeros, (2 * width,))

    def gates(self, left: Array, here: Array) -> Array:
        """What the map says to the gates: [..., 2 D] of two neighbours -> [..., 4 D].

        The convolution over a row is three wide, its right tap masked.
        """
        mask = tiled_mask(2 * self.features, self.features, self.num_groups)
        left, here, enter = self._cast(left, here, self.enter)
        return left @ enter[0] + here @ (enter[1] * mask) + self._cast(self.bias)[0]

    def __call__(self, x: Array) -> Array:
        """Maps x [B, H, W, 2 D] to the same shape."""
        gates = self.gates(shift(x, axis=2), x)
        (recur,) = self._cast(self.recur)

        def row(carry, gates):
            state, cell = carry
            around = [shift(state, 1), state, shift(state, 1, back=True)]
            state, cell = lstm(gates + jnp.concatenate(around, -1) @ recur, cell)
            return (state, cell), state

        zeros = jnp.zeros((len(x), x.shape[2], self.features), gates.dtype)
        _, states = jax.lax.scan(row, (zeros, zeros), jnp.moveaxis(gates, 1, 0))
        return self.residual(x, jnp.moveaxis(states, 0, 1))

    @nn.nowrap
    def start(self, width: int) -> Cache:
        """What `step` remembers of one image with rows of `width` pixels."""
        names = ("above", "above_cell", "state", "cell")
        dtype = self.dtype or jnp.float32
        cache = {n: jnp.zeros((width, self.features), dtype) for n in names}
        return {**cache, "x": jnp.zeros((width, 2 * self.features), dtype)}

    def next_row(self, cache: Cache) -> Cache:
        """The cache when a row is complete."""
        return {**cache, "above": cache["state"], "above_cell": cache["cell"]}

    def step(self, cache: Cache, column: Array, x: Array) -> tuple[Array, Cache]:
        """One pixel of one image: x [2 D] -> [2 D], and the new cache."""
        left = at(cache["x"], column - 1)
        around = [at(cache["above"], column + i) for i in (-1, 0, 1)]
        gates = self.gates(left, x)
        gates += jnp.concatenate(around) @ self._cast(self.recur)[0]
        state, cell = lstm(gates, cache["above_cell"][column])
        new = {"x": x, "state": state, "cell": cell}
        cache = {**cache, **{n: cache[n].at[column].set(v) for n, v in new.items()}}
        return self.residual(x, state), cache


class DiagonalBiLSTM(_Layer):
    """A residual layer of two LSTMs from the upper corners, a diagonal at a time.

    The state of a pixel follows from those of its left (right) and upper neighbours.
    The map of the one from the right moves a row down, so that no pixel sees its
    future. Past the borders states and cells are zero.

    Reference: van den Oord et al., arXiv:1601.06759, Sec. 3.2 and 3.3.
    """

    def setup(self):
        """Makes the parameters."""
        width = self.features
        init = nn.initializers.lecun_normal(batch_axis=0)
        self.enter = self.param("enter", init, (2, 2 * width, 4 * width))
        self.bias = self.param("bias", forget_bias, (2, 4 * width))
        # From the states of the neighbour beside, then of that above.
        self.recur = self.param("recur", init, (2, 2 * width, 4 * width))
        plain = nn.initializers.lecun_normal()
        self.out = self.param("out", plain, (width, 2 * width))
        self.out_bias = self.param("out_bias", nn.initializers.zeros, (2 * width,))

    def gates(self, x: Array) -> Array:
        """What the map says to both LSTMs' gates: [..., 2 D] -> [2, ..., 4 D]."""
        mask = tiled_mask(2 * self.features, self.features, self.num_groups)
        x, enter, bias = self._cast(x, self.enter * mask, self.bias)
        flat = x.reshape(-1, x.shape[-1]) @ enter + bias[:, None]
        return flat.reshape(2, *x.shape[:-1], -1)

    def __call__(self, x: Array) -> Array:
        """Maps x [B, H, W, 2 D] to the same shape."""
        b, h, w, _ = x.shape
        left, right = self.gates(x)
        gates = jnp.moveaxis(skew(jnp.stack([left, jnp.flip(right, 2)])), 3, 0)
        # [2, B, H, 4 D] for each diagonal; of its places those in the image count.
        (recur,) = self._cast(self.recur)
        column = np.arange(w + h - 1)[:, None] - np.arange(h)
        inside = jnp.asarray((column >= 0) & (column < w))[..., None]

        def diagonal(carry, inputs):
            (state, cell), (gates, inside) = carry, inputs
            both = jnp.concatenate([state, shift(state, 2)], -1).reshape(2, b * h, -1)
            gates += (both @ recur).reshape(gates.shape)
            state, cell = (jnp.where(inside, v, 0) for v in lstm(gates, cell))
            return (state, cell), state

        zeros = jnp.zeros((2, b, h, self.features), gates.dtype)
        _, states = jax.lax.scan(diagonal, (zeros, zeros), (gates, inside))
        left, right = unskew(jnp.moveaxis(states, 0, 3), w)
        return self.residual(x, left + shift(jnp.flip(right, 2), 1))

    @nn.nowrap
    def start(self, width: int) -> Cache:
        """What `step` remembers of one image with rows of `width` pixels.

        `state` and `cell` are of the row being drawn, `above` and `right` of the two
        LSTMs in the row above, `x` the row of the map.
        """
        names = ("above", "right", "state", "cell")
        dtype = self.dtype or jnp.float32
        cache = {n: jnp.zeros((width, self.features), dtype) for n in names}
        return {**cache, "x": jnp.zeros((width, 2 * self.features), dtype)}

    def next_row(self, cache: Cache) -> Cache:
        """The cache when a row is complete: only now can one come from its right."""
        recur = self._cast(self.recur)[0][1]

        def pixel(carry, inputs):
            (state, cell), (gates, above) = carry, inputs
            both = jnp.concatenate([state, above])
            state, cell = lstm(gates + both @ recur, cell)
            return (state, cell), state

        inputs = self.gates(cache["x"])[1], cache["right"]
        zeros = jnp.zeros_like(cache["right"][0])
        _, right = jax.lax.scan(pixel, (zeros, zeros), inputs, reverse=True)
        return {**cache, "right": right, "above": cache["state"]}

    def step(self, cache: Cache, column: Array, x: Array) -> tuple[Array, Cache]:
        """One pixel of one image: x [2 D] -> [2 D], and the new cache."""
        both = [at(cache["state"], column - 1), cache["above"][column]]
        gates = self.gates(x)[0] + jnp.concatenate(both) @ self._cast(self.recur)[0][0]
        state, cell = lstm(gates, at(cache["cell"], column - 1))
        new = {"x": x, "state": state, "cell": cell}
        cache = {**cache, **{n: cache[n].at[column].set(v) for n, v in new.items()}}
        return self.residual(x, state + cache["right"][column]), cache


def shift(x: Array, axis: int, back: bool = False) -> Array:
    """Each place of the axis gets what the one before (after) has; zero at the end."""
    pads = [(0, 0)] * x.ndim
    pads[axis] = (0, 1) if back else (1, 0)
    start = 1 if back else 0
    padded = jnp.pad(x, pads)
    return jax.lax.slice_in_dim(padded, start, start + x.shape[axis], axis=axis)


def at(row: Array, column: Array) -> Array:
    """row[column], or zeros past its ends: [W, D] -> [D]."""
    inside = (column >= 0) & (column < len(row))
    return jnp.where(inside, row[column], 0)


LAYERS = {"row_lstm": RowLSTM, "diagonal_bilstm": DiagonalBiLSTM}


class PixelRNN(nn.Module):
    """A masked convolution, recurrent layers, and two dense layers for each pixel.

    Row LSTMs see a triangle. Diagonal BiLSTMs see all pixels but one at most: the last
    of the row above enters a map with the convolution's window alone, so that it is
    not seen from where it is out of the window of all pixels to the left.

    Attributes:
        features: Width of the states.
        num_channels: C of the images.
        num_outputs: Numbers for each pixel, in groups as the channels.
        layer: A key of `LAYERS`.
        num_layers: How many of them.
        out_features: Width of the dense layer between.
        num_groups: 1, or C if the channels are predicted one after the other.

    Reference: van den Oord et al., arXiv:1601.06759, Sec. 3 and Table 1.
    """

    features: int
    num_channels: int
    num_outputs: int
    layer: str = "diagonal_bilstm"
    num_layers: int = 7
    out_features: int = 32
    num_groups: int = 1
    dtype: Any = None

    def setup(self):
        """Makes the parameters."""
        block, width = self._block(), 2 * self.features
        init, zeros = nn.initializers.lecun_normal(), nn.initializers.zeros
        shape = (WINDOW, WINDOW, self.num_channels, width)
        self.window = self.param("window", init, shape)
        self.window_bias = self.param("window_bias", zeros, (width,))
        example = jnp.zeros((1, 1, 1, width))
        blocks = stack.initializer(block, self.num_layers, example)
        self.blocks = self.param("layers", blocks)
        self.dense = self.param("dense", init, (width, self.out_features))
        self.dense_bias = self.param("dense_bias", zeros, (self.out_features,))
        self.out = self.param("out", init, (self.out_features, self.num_outputs))
        self.out_bias = self.param("out_bias", zeros, (self.num_outputs,))

    def __call__(self, x: Array) -> Array:
        """Maps x [B, H, W, C] to [B, H, W, num_outputs]."""
        half = WINDOW // 2
        pads = ((half, half), (half, half))
        x, kernel = x.astype(self._dtype), self._kernel()
        x = direct_conv((1, 1), pads)(x, kernel) + self.window_bias.astype(x.dtype)
        block = self._block()

        def layer(x, params):
            return block.apply({"params": params}, x), None

        layer = rematerialisation.block(layer, "a layer", jax.checkpoint)
        return self._outputs(jax.lax.scan(layer, x, self.blocks)[0])

    @nn.nowrap
    def start(self, width: int) -> Cache:
        """What the steps remember of one image with rows of `width` pixels.

        Of the image, it is the row being drawn and those above in the window.
        """
        half = WINDOW // 2
        rows = jnp.zeros((half + 1, width + 2 * half, self.num_channels))
        layer = self._block().start(width)
        layers = {k: jnp.stack([v] * self.num_layers) for k, v in layer.items()}
        return {"image": rows, **layers}

    def next_row(self, cache: Cache, row: Array, above: Array) -> Cache:
        """The cache at the start of a row: above [W, C] is complete, zeros at first."""
        half, block = WINDOW // 2, self._block()
        image = cache["image"]
        above = jnp.pad(above, [(half, half), (0, 0)])[None]
        image = jnp.concatenate([image[1:-1], above, jnp.zeros_like(above)])

        def next_row(params: Any, own: Cache) -> Cache:
            return block.apply({"params": params}, own, method="next_row")

        old = {k: v for k, v in cache.items() if k != "image"}
        new = jax.vmap(next_row)(self.blocks, old)
        layers = jax.tree.map(lambda n, o: jnp.where(row > 0, n, o), new, old)
        return {"image": image, **layers}

    def step(
        self, cache: Cache, column: Array, group: int, last: Array
    ) -> tuple[Array, Cache]:
        """The outputs of one group at a pixel of one image.

        Args:
            cache: Of the steps before.
            column: Of the pixel, int [].
            group: Of channels.
            last: The pixel on the left, [C], for the first group, zeros in the first
                column; the pixel itself for the others, with zeros where unknown.

        Returns:
            Float [num_outputs / num_groups], and the new cache.
        """
        cache = dict(cache)
        half, block = WINDOW // 2, self._block()
        place = (half, column + half - (group == 0), 0)
        image = cache.pop("image")
        image = jax.lax.dynamic_update_slice(image, last[None, None], place)
        size = (half + 1, WINDOW, self.num_channels)
        seen = jax.lax.dynamic_slice(image, (0, column, 0), size)
        kernel = self._kernel()[: half + 1].reshape(-1, 2 * self.features)
        x = seen.reshape(-1).astype(kernel.dtype) @ kernel
        x += self.window_bias.astype(x.dtype)

        def layer(x, inputs):
            params, own = inputs
            return block.apply({"params": params}, own, column, x, method="step")

        x, cache = jax.lax.scan(layer, x, (self.blocks, cache))
        outputs = self._outputs(x).reshape(self.num_groups, -1)[group]
        return outputs, {"image": image, **cache}

    @nn.nowrap
    def _block(self) -> nn.Module:
        settings = dict(num_groups=self.num_groups, dtype=self.dtype, parent=None)
        return LAYERS[self.layer](self.features, **settings)

    @property
    def _dtype(self) -> Any:
        return self.dtype or jnp.float32

    @nn.nowrap
    def _kernel(self) -> Array:
        """The first convolution's, which sees what comes before a pixel (mask A)."""
        half, (height, width, num_inputs, num_outputs) = WINDOW // 2, self.window.shape
        mask = np.zeros((height, width, num_inputs, num_outputs), np.float32)
        mask[:half] = 1
        mask[half, :half] = 1
        sizes = num_inputs, num_outputs, self.num_groups
        mask[half, half] = group_mask(*sizes, strict=True)
        return (self.window * mask).astype(self._dtype)

    @nn.nowrap
    def _outputs(self, x: Array) -> Array:
        """Two dense layers after the recurrent ones, mask B."""
        pairs = (self.dense, self.dense_bias), (self.out, self.out_bias)
        for kernel, bias in pairs:
            mask = group_mask(*kernel.shape, self.num_groups, strict=False)
            x = nn.relu(x) @ (kernel * mask).astype(x.dtype) + bias.astype(x.dtype)
        return x
