"""Masked autoencoders: each output sees the inputs before it, in a given order.

Germain et al., MADE, arXiv:1502.03509. Without hidden layers this is the fully visible
belief net, a (softmax or logistic) regression of each input on those before it.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from genjax.networks.layers import activation

ORDERS = ("raster", "random")


def ranks(num_sites: int, num_masks: int, order: str, seed: int = 0) -> np.ndarray:
    """The place of each site in the order of each mask, int [K, S] from 0 on.

    Args:
        num_sites: S.
        num_masks: K.
        order: "raster", the same for all masks, or "random", one of its own for each.
        seed: Of the random orders.

    Raises:
        ValueError: For another order.
    """
    if order not in ORDERS:
        raise ValueError(f"order must be one of {ORDERS}, got {order!r}")
    if order == "raster":
        return np.tile(np.arange(num_sites), (num_masks, 1))
    # RandomState's stream is frozen for good, so that a checkpoint keeps its meaning.
    random = np.random.RandomState(seed)
    return np.stack([random.permutation(num_sites) for _ in range(num_masks)])


def degrees(
    num_sites: int, num_masks: int, features: Sequence[int], seed: int = 0
) -> list[np.ndarray]:
    """The last rank that each hidden unit may see, int [K, width] for each layer.

    Each layer's degrees are spread evenly over 0..S-2 where the paper draws them, so
    that a layer of S - 1 units leaves no dependency out; which unit has which is
    random.

    Args:
        num_sites: S.
        num_masks: K.
        features: Widths of the hidden layers.
        seed: Of the random places.

    Reference: Germain et al., arXiv:1502.03509, Sec. 3 and 4.1.
    """
    random = np.random.RandomState(seed + 1)
    even = [np.arange(width) * max(num_sites - 1, 1) // width for width in features]
    return [
        np.stack([random.permutation(layer) for _ in range(num_masks)])
        for layer in even
    ]


def units_of_degree(degree: np.ndarray, num_sites: int) -> np.ndarray:
    """The units that each rank completes, int [K, S, M]; row i has degree i - 1.

    Rows are filled up with the layer's width, which is no unit.
    """
    num_masks, width = degree.shape
    most = max(np.bincount(row).max() for row in degree)
    table = np.full((num_masks, num_sites, most), width)
    for row, places in zip(degree, table, strict=True):
        for rank in range(1, num_sites):
            (units,) = np.nonzero(row == rank - 1)
            places[rank, : len(units)] = units
    return table


class MADE(nn.Module):
    """Dense layers whose masks let output i see the inputs of lower rank alone.

    A hidden unit of degree m sees the inputs of rank 0..m; an output sees the hidden
    units of degree below its rank.

    Attributes:
        features: Widths of the hidden layers; () is one regression for each site.
        num_sites: S, how many things are predicted one after the other.
        num_inputs: V, numbers that a site has as an input.
        num_outputs: P, parameters of a site's distribution.
        order: See `ranks`.
        num_masks: K. With "raster" they differ in the hidden degrees, with "random" in
            the order too.
        seed: Of orders and degrees.
        direct: Whether inputs also feed the outputs directly.
        activation: A key of `layers.ACTIVATIONS`.

    Reference: Germain et al., arXiv:1502.03509, Sec. 3-4.
    """

    features: Sequence[int]
    num_sites: int
    num_inputs: int
    num_outputs: int
    order: str = "raster"
    num_masks: int = 1
    seed: int = 0
    direct: bool = False
    activation: str = "relu"
    dtype: Any = None

    def setup(self):
        """Makes the parameters and what the masks follow from."""
        sizes = self.num_sites, self.num_masks
        self.ranks = ranks(*sizes, self.order, self.seed)
        self.degrees = degrees(*sizes, self.features, self.seed)
        ends = [self.num_sites * n for n in (self.num_inputs, self.num_outputs)]
        widths = [ends[0], *self.features, ends[1]]
        # A regression is convex: it starts from even odds, not from noise.
        init, zeros = nn.initializers.lecun_normal(), nn.initializers.zeros
        inits = [init] * len(self.features) + [init if self.features else zeros]
        self.kernels = [
            self.param(f"kernel_{i}", inits[i], widths[i : i + 2])
            for i in range(len(widths) - 1)
        ]
        self.biases = [
            self.param(f"bias_{i}", zeros, (width,))
            for i, width in enumerate(widths[1:])
        ]
        self.skip = None
        if self.direct and self.features:
            self.skip = self.param("direct", zeros, ends)

    def __call__(self, x: Array, mask: Array | int = 0) -> Array:
        """Maps x [B, S, V], sites in their natural order, to [B, S, P] under a mask."""
        x, kernels, biases, skip = self._promote(x.reshape(len(x), -1))
        rank = jnp.asarray(self.ranks)[mask]
        inner = [jnp.asarray(layer)[mask] for layer in self.degrees]
        seen = [jnp.repeat(rank, self.num_inputs), *inner]
        h = x
        for kernel, bias, low, high in zip(
            kernels[:-1], biases[:-1], seen[:-1], seen[1:], strict=True
        ):
            allowed = low[:, None] <= high
            h = activation(self.activation)(h @ (kernel * allowed) + bias)
        out = jnp.repeat(rank, self.num_outputs)
        y = h @ (kernels[-1] * (seen[-1][:, None] < out)) + biases[-1]
        if skip is not None:
            y += x @ (skip * (seen[0][:, None] < out))
        return y.reshape(-1, self.num_sites, self.num_outputs)

    def start(self, mask: Array | None = None) -> dict[str, Any]:
        """What `step` remembers of one image: all zeros, and its mask if given."""
        x = jnp.zeros((self.num_sites, self.num_inputs))
        cache = {"x": x, "hidden": [jnp.zeros(width) for width in self.features]}
        return cache if mask is None else {**cache, "mask": mask}

    def step(
        self, cache: dict[str, Any], index: Array, previous: Array
    ) -> tuple[Array, dict[str, Any]]:
        """The outputs of the site of rank `index`, for one image.

        A hidden unit is computed once, when the last input that it sees is known. What
        isn't known yet is zero in the cache, so that no masks are needed, and all the
        steps together cost one pass through the network.

        Args:
            cache: Of the steps before.
            index: Rank of the site, int [].
            previous: Value [V] of the site of rank index - 1; ignored at rank 0.

        Returns:
            The outputs, [P], and the new cache.
        """
        mask = cache.get("mask", 0)
        sites = jnp.asarray(np.argsort(self.ranks, axis=1))[mask]
        previous = jnp.where(index > 0, previous, 0)
        known = cache["x"].at[sites[index - 1]].set(previous)
        x, kernels, biases, skip = self._promote(known.reshape(-1))
        hidden, h = [], x
        for i, old in enumerate(cache["hidden"]):
            table = units_of_degree(self.degrees[i], self.num_sites)
            units = jnp.asarray(table)[mask, index]
            new = h @ kernels[i][:, units] + biases[i][units]
            new = activation(self.activation)(new).astype(old.dtype)
            hidden.append(old.at[units].set(new, mode="drop"))
            h = hidden[-1].astype(x.dtype)
        own = sites[index] * self.num_outputs + jnp.arange(self.num_outputs)
        y = h @ kernels[-1][:, own] + biases[-1][own]
        if skip is not None:
            y += x @ skip[:, own]
        return y, {**cache, "x": known, "hidden": hidden}

    @nn.nowrap
    def _promote(self, x: Array) -> tuple[Array, list[Array], list[Array], Any]:
        """x and all parameters in the dtype of the computation."""
        tree = x, self.kernels, self.biases, self.skip
        dtype = self.dtype or jnp.float32
        return jax.tree.map(lambda value: value.astype(dtype), tree)
