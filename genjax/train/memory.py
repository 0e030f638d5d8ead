"""Whether memory suffices, what to say when it does not, and keeping it on CPUs."""

import contextlib
import ctypes
import functools
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
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

# Where Linux keeps a container's limit, by the version of its control groups.
LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
# The names that mallopt(3) has for what it sets.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -3, -4, -8
KEEPING = {MMAP_MAX: 0, TRIM_THRESHOLD: -1}
# What glibc comes to by itself in a program of large blocks.
USUAL = {MMAP_MAX: 65536, MMAP_THRESHOLD: 2**25, TRIM_THRESHOLD: 2**26}


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
    """Bytes of this machine's memory, or of the container's that it is seen from."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    texts = [path.read_text().strip() for path in LIMITS if path.is_file()]
    return min([whole, *(int(text) for text in texts if text.isdigit())])


def resident_memory() -> int:
    """Bytes of memory that this process takes up, on Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@functools.cache
def glibc() -> ctypes.CDLL | None:
    """The C library, if it is the one whose `mallopt` this knows, and left to us."""
    own = "MALLOC_", "LD_PRELOAD"
    if (
        sys.platform != "linux"
        or any(name.startswith(own) for name in os.environ)
        or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    ):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


def use_one_arena() -> None:
    """Lets all threads allocate from the same heap, without which `Heap` has no effect.

    To be called before JAX is first used, and only to train: threads then wait for each
    other, which costs sampling, whose programs are few and long, 3 % of its time.
    """
    if library := glibc():
        library.mallopt(ARENA_MAX, 1)
        Heap.may_keep = True


class Heap:
    """Has a CPU's train step find the memory again that the step before it freed.

    XLA allocates all temporaries of a step as one block. So large a block glibc takes
    from the kernel and gives back each time, and each of its pages costs a fault: a
    third of the processor time of PixelCNN's step, and a tenth of many. Kept, a block
    sometimes does not fit by a few bytes when it is asked for again, and another is
    taken. So what is free is given back once it may be as much as the process held
    after its first step; and nothing is kept where twice that is more than half of the
    memory, nor in a program that did not begin with `use_one_arena`.
    """

    may_keep = False

    def __init__(self) -> None:
        """Does nothing before `keep`."""
        self.library: ctypes.CDLL | None = None
        self.first = self.bound = 0  # Bytes held after the first step, and at most.

    def set(self, options: dict[int, int]) -> None:
        """Sets those of mallopt(3)."""
        if self.library:
            for name, value in options.items():
                self.library.mallopt(name, value)

    def keep(self) -> None:
        """From now on what is freed is kept."""
        alone = jax.process_count() == 1
        if self.may_keep and alone and jax.default_backend() == "cpu":
            self.library = glibc()
        self.set(KEEPING)

    def check(self) -> None:
        """Between two steps: gives back what is free, if that is too much."""
        if not self.library:
            return
        held = resident_memory()
        if not self.first:
            self.first, self.bound = held, 2 * held
            if self.bound > host_memory() // 2:
                self.release()
        elif held > self.bound:
            self.library.malloc_trim(0)
            self.bound = resident_memory() + self.first

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Within, for what is no train step, all is as if nothing were kept."""
        self.set(USUAL)
        try:
            yield
        finally:
            self.set(KEEPING)

    def release(self) -> None:
        """Keeps nothing any more, and gives back what is free."""
        self.set(USUAL)
        if self.library:
            self.library.malloc_trim(0)
        self.library = None
