"""A causal transformer over the pixels of an image, with full or sparse attention.

Parmar et al., Image Transformer, arXiv:1802.05751.
Child et al., Generating Long Sequences with Sparse Transformers, arXiv:1904.10509.
"""

import functools
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from genjax.networks import rematerialisation, stack
from genjax.networks.layers import Dense

PATTERNS = ("full", "local", "strided", "fixed")


@dataclass(frozen=True)
class Pattern:
    """Which positions j <= i a position i attends to.

    Attributes:
        name: "full": all; "local": the last `stride`, itself included; "strided": those
            and every stride-th position before; "fixed": its own block of `stride`
            positions, and the last `summary` positions of each block before.
        stride: The paper's l; divides the length of the sequence.
        summary: The paper's c, of "fixed".

    References:
        Child et al., arXiv:1904.10509, Sec. 4.3; the two sets of a pattern are merged
        in one head (Eq. 9).
        Parmar et al., arXiv:1802.05751, Sec. 3.3, for local attention, whose memory
        there begins at a block's border.
    """

    name: str = "full"
    stride: int = 1
    summary: int = 1

    def mask(self, length: int) -> np.ndarray:
        """Whether row i attends to column j, bool [L, L]."""
        i, j = np.arange(length)[:, None], np.arange(length)
        near = i - j < self.stride
        if self.name == "full":
            seen = np.ones((length, length), bool)
        elif self.name == "local":
            seen = near
        elif self.name == "strided":
            seen = near | ((i - j) % self.stride == 0)
        else:
            own = i // self.stride == j // self.stride
            seen = own | (j % self.stride >= self.stride - self.summary)
        return seen & (j <= i)

    def keys(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The positions that each attends to, int [L, M], and which of them count."""
        mask = self.mask(length)
        counts = mask.sum(1)
        keys = np.argsort(~mask, axis=1, kind="stable")[:, : counts.max()]
        return keys, np.arange(counts.max()) < counts[:, None]


def softmax(logits: Array, mask: Array) -> Array:
    """Weights over the last axis where the mask is true, in float32."""
    return jax.nn.softmax(jnp.where(mask, logits.astype(jnp.float32), -jnp.inf))


def attend(query: Array, key: Array, value: Array, pattern: Pattern) -> Array:
    """softmax(q k^T / sqrt(D)) v over what the pattern lets each position see.

    Sparse patterns take blocks of `stride` positions at a time: L (2 stride + L /
    stride) products for "strided", where "full" takes L^2.

    Args:
        query: [B, L, N, D] for N heads.
        key: [B, L, N, D].
        value: [B, L, N, E].
        pattern: Its stride divides L.

    Returns:
        [B, L, N, E].

    Reference: Child et al., arXiv:1904.10509, Eq. 2-3.
    """
    b, length, n, _ = query.shape
    size = length if pattern.name == "full" else pattern.stride
    # Heads first: plain matrix products run faster than einsums over [B, L, N, D].
    q, k, v = (
        x.reshape(b, -1, size, n, x.shape[-1]).transpose(0, 3, 1, 2, 4)
        for x in (query / query.shape[-1] ** 0.5, key, value)
    )
    inside, across = _block_masks(length // size, size, pattern.name)
    near = (k, v)
    if pattern.name in ("local", "strided"):
        near = tuple(map(_with_block_before, near))
    sets = [(q, *near, inside, _same)]
    if pattern.name == "strided":  # Place i of the blocks before, for place i of one.
        sets.append((*map(_by_place, (q, k, v)), across, _by_place))
    elif pattern.name == "fixed":  # The last places of the blocks before.
        ends = [x[..., size - pattern.summary :, :] for x in (k, v)]
        ends = [x.reshape(b, n, 1, -1, x.shape[-1]) for x in ends]
        mask = np.repeat(across, pattern.summary, axis=1)[:, None]
        sets.append((q, *ends, mask, _same))
    logits = [
        jnp.where(mask, (q @ k.swapaxes(-1, -2)).astype(jnp.float32), -jnp.inf)
        for q, k, _, mask, _ in sets
    ]
    # One softmax over all sets, each in its own layout: to join them costs more than
    # all else, above all in the backward pass.
    tops = [turn(x.max(-1)) for x, (*_, turn) in zip(logits, sets, strict=True)]
    top = jax.lax.stop_gradient(functools.reduce(jnp.maximum, tops))
    total, out = 0, 0
    for x, (*_, values, _, turn) in zip(logits, sets, strict=True):
        weights = jnp.exp(x - turn(top)[..., None])
        total += turn(weights.sum(-1))
        out += turn(weights.astype(value.dtype) @ values)
    out = (out / total[..., None]).astype(value.dtype)
    return out.transpose(0, 2, 3, 1, 4).reshape(b, length, n, -1)


def _same(x: Array) -> Array:
    return x


def _by_place(x: Array) -> Array:
    """[B, N, X, S, ...] of blocks to [B, N, S, X, ...] of places in them, and back."""
    return x.swapaxes(2, 3)


def _block_masks(
    num_blocks: int, size: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Which near keys and which earlier blocks count, [X, S, M] and [X, X]."""
    i, j = np.arange(size)[:, None], np.arange(size)
    before = np.arange(num_blocks)
    if name in ("full", "fixed"):
        inside = np.tile(j <= i, (num_blocks, 1, 1))
    else:
        window = np.concatenate([j > i, j <= i], axis=1)
        inside = np.tile(window, (num_blocks, 1, 1))
        inside[0, :, :size] = False
    return inside, before < before[:, None]


def _with_block_before(x: Array) -> Array:
    """[B, N, X, S, D] to [B, N, X, 2 S, D]: each block after the one before it."""
    before = jnp.pad(x[:, :, :-1], [(0, 0), (0, 0), (1, 0), (0, 0), (0, 0)])
    return jnp.concatenate([before, x], axis=3)


class Block(nn.Module):
    """Attention and a two-layer network for each position, norms before both.

    Attributes:
        features: Width of the stream.
        num_heads: Of attention.
        pattern: Of attention.
        qk_features: Width of queries and keys over all heads; that of the stream if
            None.
        mlp_features: Width of the hidden layer; four times the stream if None.
        dropout: Of both branches' outputs.
        num_blocks: Of the whole stack, whose depth scales the branches at the start.

    Reference: Child et al., arXiv:1904.10509, Sec. 5.2.
    """

    features: int
    num_heads: int
    pattern: Pattern
    qk_features: int | None = None
    mlp_features: int | None = None
    dropout: float = 0.0
    num_blocks: int = 1
    dtype: Any = None

    def setup(self):
        """Makes the layers."""
        self.sizes = [self.qk_features or self.features] * 2 + [self.features]
        small = nn.initializers.variance_scaling(
            1 / (2 * self.num_blocks), "fan_in", "truncated_normal"
        )
        hidden = self.mlp_features or 4 * self.features
        self.norm_attention = nn.LayerNorm(dtype=self.dtype)
        self.qkv = Dense(sum(self.sizes), dtype=self.dtype)
        self.out = Dense(self.features, kernel_init=small, dtype=self.dtype)
        self.norm_mlp = nn.LayerNorm(dtype=self.dtype)
        self.mlp_in = Dense(hidden, dtype=self.dtype)
        self.mlp_out = Dense(self.features, kernel_init=small, dtype=self.dtype)
        self.drop = nn.Dropout(self.dropout)

    def heads(self, x: Array) -> list[Array]:
        """Queries, keys and values [..., N, D] of the stream [..., features]."""
        qkv = self.qkv(self.norm_attention(x))
        parts = jnp.split(qkv, np.cumsum(self.sizes)[:-1], axis=-1)
        return [p.reshape(*x.shape[:-1], self.num_heads, -1) for p in parts]

    def mlp(self, x: Array) -> Array:
        """The second branch."""
        return self.mlp_out(nn.gelu(self.mlp_in(self.norm_mlp(x))))

    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps x [B, L, features] to the same shape."""
        h = attend(*self.heads(x), self.pattern).reshape(x.shape)
        x = x + self.drop(self.out(h), deterministic=not train)
        return x + self.drop(self.mlp(x), deterministic=not train)

    def step(
        self, x: Array, cache: dict[str, Array], layer: Array, index: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Position `index` of one sequence.

        Args:
            x: Stream there, [features].
            cache: "key" and "value" of all layers, [num_blocks, L, N, D].
            layer: Number of this block, int [].
            index: The position, int [].

        Returns:
            The stream after the block, and the new cache.
        """
        query, key, value = self.heads(x)
        new = {"key": key, "value": value}
        cache = {k: v.at[layer, index].set(new[k]) for k, v in cache.items()}
        keys, counts = self.pattern.keys(cache["key"].shape[1])
        places, mask = jnp.asarray(keys)[index], jnp.asarray(counts)[index]
        query = query / query.shape[-1] ** 0.5
        logits = jnp.einsum("nd,mnd->nm", query, cache["key"][layer, places])
        weights = softmax(logits, mask).astype(value.dtype)
        h = jnp.einsum("nm,mne->ne", weights, cache["value"][layer, places])
        x = x + self.out(h.reshape(-1))
        return x + self.mlp(x), cache


class Transformer(nn.Module):
    """A causal transformer: outputs of position i see the values before it.

    Positions are those of an image in raster order: pixels, or their channels one
    after the other. Each enters with learned embeddings of its row, column and channel
    and of the value before it.

    Attributes:
        shape: (H, W, channels); the sequence has L = H W channels positions.
        num_outputs: Numbers for each position.
        num_inputs: Numbers of which a value consists.
        num_levels: If the values are single levels, on 2 k / (num_levels - 1) - 1, how
            many there are; None takes them as numbers.
        features: Width of the stream.
        num_blocks: How many blocks.
        num_heads: See `Block`, as for the next three.
        qk_features: Of queries and keys.
        mlp_features: Of the hidden layers.
        dropout: Share of the branches' outputs that is dropped in training.
        pattern: Of attention.

    Reference: Child et al., arXiv:1904.10509, Sec. 5.
    """

    shape: tuple[int, int, int]
    num_outputs: int
    num_inputs: int
    num_levels: int | None
    features: int
    num_blocks: int
    num_heads: int = 4
    qk_features: int | None = None
    mlp_features: int | None = None
    dropout: float = 0.0
    pattern: Pattern = Pattern()
    dtype: Any = None

    def setup(self):
        """Makes the parameters."""
        small = nn.initializers.normal(0.02)
        for name, length in zip(("row", "column", "channel"), self.shape, strict=True):
            value = self.param(name, small, (length, self.features))
            setattr(self, f"{name}_embedding", value)
        self.first = self.param("first", small, (self.features,))
        if self.num_levels:
            self.value = nn.Embed(self.num_levels, self.features, embedding_init=small)
        else:
            self.value = Dense(self.features, dtype=self.dtype)
        example = jnp.zeros((1, self.pattern.stride, self.features))
        init = stack.initializer(self.block, self.num_blocks, example, train=False)
        self.blocks = self.param("blocks", init)
        self.norm = nn.LayerNorm(dtype=self.dtype)
        # All levels alike at the start.
        zeros = nn.initializers.zeros
        self.out = Dense(self.num_outputs, kernel_init=zeros, dtype=self.dtype)

    @property
    def length(self) -> int:
        """L."""
        return int(np.prod(self.shape))

    @property
    def block(self) -> Block:
        """One block, unbound."""
        return Block(
            self.features,
            self.num_heads,
            self.pattern,
            qk_features=self.qk_features,
            mlp_features=self.mlp_features,
            dropout=self.dropout,
            num_blocks=self.num_blocks,
            dtype=self.dtype,
            parent=None,
        )

    def embed(self, values: Array) -> Array:
        """What each value says to the next position, [..., num_inputs] -> [..., D]."""
        if not self.num_levels:
            return self.value(values)
        levels = jnp.round((values[..., 0] + 1) / 2 * (self.num_levels - 1))
        return self.value(levels.astype(jnp.int32))

    def places(self) -> Array:
        """The embedding of each position, [L, features]."""
        row, column = self.row_embedding[:, None, None], self.column_embedding[:, None]
        return (row + column + self.channel_embedding).reshape(-1, self.features)

    def __call__(self, x: Array, label: None = None, *, train: bool = False) -> Array:
        """Maps x [B, ...], of B L num_inputs numbers, to [B, L, num_outputs]."""
        before = self.embed(x.reshape(len(x), self.length, -1)[:, :-1])
        first = jnp.broadcast_to(self.first, (len(x), 1, self.features))
        h = jnp.concatenate([first, before], axis=1) + self.places()
        block, dropped = self.block, train and self.dropout > 0

        def layer(h, inputs):
            params, key = inputs
            rngs = {"dropout": key} if dropped else None
            return block.apply({"params": params}, h, train=train, rngs=rngs), None

        keys = jnp.arange(self.num_blocks)
        if dropped:
            keys = jax.random.split(self.make_rng("dropout"), self.num_blocks)
        layer = rematerialisation.block(layer, "a layer", jax.checkpoint)
        h, _ = jax.lax.scan(layer, h.astype(self.dtype), (self.blocks, keys))
        return self.out(self.norm(h))

    @nn.nowrap
    def start(self) -> dict[str, Array]:
        """What `step` remembers of one sequence: keys and values, all zeros."""
        widths = {"key": self.qk_features or self.features, "value": self.features}
        shape = (self.num_blocks, self.length, self.num_heads)
        return {
            name: jnp.zeros((*shape, width // self.num_heads), self.dtype)
            for name, width in widths.items()
        }

    def step(
        self, cache: dict[str, Array], index: Array, last: Array
    ) -> tuple[Array, dict[str, Array]]:
        """The outputs [num_outputs] of one position of one sequence, and the new cache.

        Args:
            cache: Of the steps before.
            index: The position, int [].
            last: The value before it, [num_inputs]; ignored at the first.
        """
        h = jnp.where(index > 0, self.embed(last), self.first) + self.places()[index]
        block = self.block

        def layer(carry, inputs):
            (h, cache), (params, number) = carry, inputs
            settings = dict(method="step")
            variables = {"params": params}
            return block.apply(variables, h, cache, number, index, **settings), None

        carry = h.astype(self.dtype), cache
        inputs = self.blocks, jnp.arange(self.num_blocks)
        (h, cache), _ = jax.lax.scan(layer, carry, inputs)
        return self.out(self.norm(h)), cache
