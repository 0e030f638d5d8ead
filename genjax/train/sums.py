"""Fingerprints of what a checkpoint holds, which tell damage when it is read again."""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.tree_util import keystr, tree_leaves_with_path

# [dtype, shape, fingerprint] of an array, as JSON gives it back.
Sum = list[Any]


def of_tree(tree: Any) -> dict[str, Sum]:
    """The fingerprint of every array by its path, computed where the arrays are.

    It depends on the bits and their places alone, and not on how the array is split
    over devices or processes. All processes are to call it, and get the same.
    """
    leaves = named_leaves(tree)
    numbers = jax.device_get(_fingerprints(list(leaves.values())))
    return {
        name: [*kind(leaf), int(number)]
        for (name, leaf), number in zip(leaves.items(), numbers, strict=True)
    }


def of_json(value: Any) -> int:
    """The CRC-32 of a value that JSON can hold, before or after it was written."""
    value = json.loads(json.dumps(value))  # Tuples are lists there, and keys are text.
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def unequal(saved: Mapping[str, Sum], found: Mapping[str, Sum]) -> list[str]:
    """Names of arrays of the same kind whose fingerprints differ."""
    return [
        name
        for name, (*its_kind, number) in found.items()
        if name in saved and saved[name][:2] == its_kind and saved[name][2] != number
    ]


def named_leaves(tree: Any) -> dict[str, Any]:
    """Arrays or their shapes by path, which is the same after Orbax has read them."""
    return {
        keystr(path, simple=True, separator="/"): leaf
        for path, leaf in tree_leaves_with_path(tree)
    }


def kind(leaf: Any) -> list[Any]:
    """[dtype, shape], as JSON gives them back."""
    return [str(np.dtype(leaf.dtype)), list(leaf.shape)]


@jax.jit
def _fingerprints(leaves: list[Array]) -> list[Array]:
    return [_fingerprint(leaf) for leaf in leaves]


@jax.jit  # Leaves of one kind are lowered once.
def _fingerprint(leaf: Array) -> Array:
    """Sums a hash of each element's bits and place, uint32 with wraparound.

    The hash is a bijection of the bits, so that one changed element always shows.
    """
    bits = _bits(leaf)
    hashed, stride = bits, 1
    for axis in reversed(range(bits.ndim)):
        place = lax.broadcasted_iota(np.uint32, bits.shape, axis)
        hashed += place * np.uint32(stride * 0x9E3779B1 % 2**32)
        stride *= bits.shape[axis]
    hashed = (hashed ^ (hashed >> 16)) * np.uint32(0x85EBCA6B)
    hashed = (hashed ^ (hashed >> 13)) * np.uint32(0xC2B2AE35)
    return jnp.sum(hashed ^ (hashed >> 16), dtype=np.uint32)


def _bits(leaf: Array) -> Array:
    """uint32; 64 bits are two of them along a last axis."""
    if jnp.issubdtype(leaf.dtype, np.complexfloating):
        leaf = jnp.stack([leaf.real, leaf.imag], axis=-1)
    if leaf.dtype == bool:
        return leaf.astype(np.uint32)
    width = {1: np.uint8, 2: np.uint16}.get(leaf.dtype.itemsize, np.uint32)
    return lax.bitcast_convert_type(leaf, width).astype(np.uint32)
