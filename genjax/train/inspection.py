"""Looks at a checkpoint before and after it is opened, for it may come from anybody.

Orbax and TensorStore run nothing that a checkpoint holds. They do read what a link
points to, wait for a pipe, and allocate what a shape declares.
"""

import math
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path
from ml_collections import ConfigDict

from genjax.config import ConfigError, base_config, check, from_plain, shown
from genjax.untrusted import MAX_JSON, not_finite, some

# Read as a whole. The last holds the devices of each array.
JSON = {"_METADATA": 1, "_CHECKPOINT_METADATA": 1, "metadata": 1, "_sharding": 8}
# Weights hardly compress, but zeros do, and of small ones all may be zeros.
ALWAYS_ALLOWED, MOST_COMPRESSED = 2**30, 100  # Bytes, and times the files' bytes.


def check_files(folder: Path) -> None:
    """Holds all in a folder of checkpoints to plain files and folders.

    Raises:
        ConfigError: For a link, a pipe, a device, or a JSON that is too large.
    """
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):  # Deleted meanwhile.
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            check_files(Path(entry.path))
            continue
        if not entry.is_file(follow_symlinks=False):
            raise ConfigError(
                f"{entry.path!r} must be a file or a folder, and is a link or a "
                "device. A checkpoint could name any file of this machine by it: copy "
                "there what is meant, if you trust it"
            )
        limit = JSON.get(entry.name, 1 if folder.name == "array_metadatas" else 0)
        if limit and (size := entry.stat().st_size) > limit * MAX_JSON:
            raise ConfigError(
                f"{entry.path!r} has {size} bytes, and at most {limit * MAX_JSON} are "
                "read of it"
            )


def check_manifest(folder: Path) -> None:
    """Raises ConfigError unless an item has one: Orbax would take names for paths."""
    if not (folder / "manifest.ocdbt").is_file():
        raise ConfigError(f"{folder} must have a manifest.ocdbt, as train.py saves it")


def check_arrays(metadata: Any, folder: Path) -> Any:
    """Holds the arrays that an item declares to what its files can hold.

    Args:
        metadata: A tree of Orbax's `ArrayMetadata`.
        folder: Of the item.

    Returns:
        The tree, of `jax.ShapeDtypeStruct`.

    Raises:
        ConfigError: For anything but arrays of numbers, names that are paths, or more
            bytes than 1 GiB and 100 times those of the files.
    """
    total, largest = 0, (0, "")
    for path, leaf in tree_leaves_with_path(metadata):
        name = keystr(path)
        keys = [str(getattr(key, "key", key)) for key in path]
        if any("/" in key or "\\" in key or key in ("", ".", "..") for key in keys):
            raise ConfigError(f"{folder}: {name!r} must be a name, and is a path")
        dtype = np.dtype(getattr(leaf, "dtype", None) or object)
        if dtype.hasobject or not hasattr(leaf, "shape"):
            raise ConfigError(f"{folder}: {name!r} must be an array of numbers")
        shape = tuple(leaf.shape)
        storage = getattr(leaf, "storage", None)
        chunk = tuple(getattr(storage, "chunk_shape", None) or shape)
        # A part is read as a whole, whatever of it is needed.
        size = max(math.prod(shape), math.prod(chunk)) * dtype.itemsize
        total, largest = total + size, max(largest, (size, f"{name} {shape}"))
    held = sum(path.stat().st_size for path in folder.rglob("*"))
    if total > ALWAYS_ALLOWED + MOST_COMPRESSED * held:
        raise ConfigError(
            f"{folder} declares arrays of {total:,} bytes, the largest {largest[1]}, "
            f"but its files have {held:,}: it is damaged, or made to fill the memory"
        )
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), metadata)


def check_finite(weights: Any, folder: Path) -> None:
    """Holds weights to numbers; a run saves no others.

    Raises:
        ConfigError: With the first ten names of arrays that have a NaN or an infinity.
    """
    arrays = {
        keystr(path): np.asarray(leaf.addressable_data(0))
        for path, leaf in tree_leaves_with_path(weights)
        if leaf.addressable_shards  # Those of another process are checked there.
    }
    if names := not_finite(arrays):
        raise ConfigError(
            f"{folder} has weights that are not finite, so that nothing can be drawn "
            f"or measured, in {len(names)} of {len(arrays)} arrays: {some(names)}. "
            "Take another checkpoint by --step"
        )


def restore_config(values: Any, folder: Path) -> ConfigDict:
    """The config of a checkpoint, checked as that of a recipe is.

    Fields that have come since it was saved have their defaults.

    Raises:
        ConfigError: If it is none.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{folder}: expected a config, found {type(values).__name__}")
    for name, section in base_config().items():
        if not isinstance(section, ConfigDict):
            values.setdefault(name, section)
        elif isinstance(values.setdefault(name, {}), dict):
            values[name] = {**section.to_dict(), **values[name]}
    config = from_plain(values)
    check(config)
    return config


def restore_position(values: Any) -> dict[str, Any]:
    """The position of a checkpoint in its phases and data.

    Raises:
        ConfigError: If it is none.
    """
    check_index("phase", values["phase"])
    for name, value in values["data"].items():
        check_index(name, value)
    return values


def check_index(name: str, value: Any) -> None:
    """Raises ConfigError unless the value is a whole number from 0 on."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ConfigError(
            f"{name} must be a whole number from 0 on, got {shown(value)}"
        )
