"""Whether memory suffices, and what to say when it does not."""

import math
import os
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from genjax.config import ConfigError

WHAT_SAVES_MEMORY = (
    "a larger config.accumulate, which splits the batch in time; config.remat=True, "
    "which keeps blocks' inputs alone; a smaller config.data.batch_size; "
    "config.dtype='bfloat16'; or config.mesh.fsdp above 1, which splits weights and "
    "optimiser state over the devices"
)


def is_exhausted(error: Exception) -> bool:
    """Whether XLA says that a device's memory does not suffice."""
    return "RESOURCE_EXHAUSTED" in str(error)


def check_memory(mesh: Mesh, tree: Any, config: ConfigDict) -> None:
    """Holds what a run keeps to the memory that there is.

    That is a lower bound: activations, of which this knows nothing, come on top.

    Args:
        mesh: The devices, of whom each process asks its own.
        tree: Of `jax.ShapeDtypeStruct` with shardings: the state and a batch.
        config: Resolved.

    Raises:
        ConfigError: If a device, or a machine whose devices are its cores, has less.
    """
    devices = mesh.local_devices
    if not devices:
        return
    needed = sum(
        math.prod(x.sharding.shard_shape(x.shape)) * np.dtype(x.dtype).itemsize
        for x in jax.tree.leaves(tree)
        if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    )
    there = (devices[0].memory_stats() or {}).get("bytes_limit")
    if there is None and devices[0].platform == "cpu":
        there = host_memory() // len(devices)
    if there is not None and needed > there:
        raise ConfigError(
            f"the weights, the optimiser's state and a batch take {needed:,} bytes on "
            f"each device, which has {there:,}: make config.model or "
            "config.data.batch_size smaller, or set config.mesh.fsdp above 1"
        )
    drawn = math.prod(config.data.shape) * config.num_samples
    if drawn > host_memory():
        raise ConfigError(
            f"config.num_samples={config.num_samples} images take {drawn:,} bytes, but "
            f"the machine has {host_memory():,}"
        )


def host_memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
