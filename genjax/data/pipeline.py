"""Batches of a source's examples, in an order that depends on the seed alone.

Grain's own shuffle and batch work on one example at a time, some 20 microseconds each,
which is a good part of a train step of a small network. So the element that grain
prefetches and counts is here a whole batch, gathered at once. Its state stays a number.
"""

import functools
import os
import sys
from typing import TYPE_CHECKING

import numpy as np

from genjax.config import ConfigError
from genjax.data.sources import Examples
from genjax.data.transforms import coin_flips, flip_horizontal

if TYPE_CHECKING:
    import grain

MAX_THREADS = 16  # Unless more are asked for: each holds a batch.


def batches(
    source: Examples,
    *,
    batch_size: int,
    num_micro: int | None = None,
    seed: int = 0,
    shuffle: bool = True,
    repeat: bool = True,
    random_flip: bool = False,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = -1,
    prefetch: int | None = None,
) -> "grain.DatasetIterator":
    """Iterates over batches: dicts of arrays [B / P, ...], or [M, B / P, ...].

    Each epoch is a new permutation of the source; a batch may span two epochs, so that
    every example is seen exactly once in each. The global batch holds the same examples
    in the same order for any number P of processes: process p gets rows
    [p B / P, (p + 1) B / P). Beside the source's entries a batch has `index` int64, the
    position in the source, for `source.origin(index)` to name an example.

    Without `repeat` the last batch is short where B does not divide the source: its
    rows go to the first processes, others may get none, and all see as many batches.

    Args:
        source: Where examples come from.
        batch_size: B, examples in a batch, over all processes.
        num_micro: M, batches in a group, stacked in front; None stacks none.
        seed: Of the permutations and of the flips, at least 0.
        shuffle: Permute each epoch; otherwise the source's own order.
        repeat: Go on for ever; otherwise stop after one epoch.
        random_flip: Mirror each image left to right with probability 1/2.
        process_index: p, which process this is.
        process_count: P, how many share a batch.
        num_threads: Batches prepared at a time. 0 prepares each when it is asked for.
            -1 is one a core, 16 at most, where examples are decoded each time, which
            Pillow does outside the interpreter's lock, and otherwise 1.
        prefetch: Batches held ready; None is max(2, num_threads).

    Returns:
        A grain iterator. `get_state()` is a small dict, fit for JSON and the same on
        all processes; `set_state` goes on with the very next example, at any P. The
        state counts elements, so it is meant for the same source, sizes and seed.

    Raises:
        ConfigError: If a size does not fit the others.
    """
    if batch_size <= 0 or batch_size % process_count:
        raise ConfigError(
            f"config.data.batch_size must be a positive multiple of the number of "
            f"processes: got batch_size {batch_size} and {process_count} processes"
        )
    if not 0 <= process_index < process_count:
        raise ConfigError(
            f"expected 0 <= process_index < {process_count}, got {process_index}"
        )
    if num_micro is not None and (num_micro <= 0 or not repeat):
        raise ConfigError(
            f"num_micro must be positive and needs repeat: got num_micro {num_micro}, "
            f"repeat {repeat}"
        )
    if seed < 0:
        raise ConfigError(f"the seed of the data order must be >= 0, got {seed}")
    if len(source) == 0:
        raise ConfigError("the source has no examples to make batches of")

    if num_threads == -1:
        in_memory = hasattr(type(source), "columns")  # Asking for them would decode.
        num_threads = 1 if in_memory else min(MAX_THREADS, os.cpu_count() or 1)

    import grain  # Half a second, which scripts that read no data need not wait for.

    share = batch_size // process_count
    elements = _Batches(
        source,
        shape=(num_micro or 1, batch_size),
        columns=slice(process_index * share, (process_index + 1) * share),
        squeeze=num_micro is None,
        order=_Order(len(source), seed, shuffle),
        endless=repeat,
        flip_seed=seed if random_flip else None,
    )
    options = grain.ReadOptions(
        num_threads=num_threads,
        prefetch_buffer_size=max(2, num_threads) if prefetch is None else prefetch,
    )
    return iter(grain.MapDataset.source(elements).to_iter_dataset(options))


class _Order:
    """Maps places in the endless stream of examples to positions in the source."""

    def __init__(self, length: int, seed: int, shuffle: bool):
        self.length, self._seed, self._shuffle = length, seed, shuffle
        # Threads work near one place of the stream: at most two epochs are in use.
        self._permutation = functools.lru_cache(maxsize=2)(self._make_permutation)

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """Positions int64 [...] of int64 places [...]."""
        epochs, positions = np.divmod(places, self.length)
        if not self._shuffle:
            return positions
        result = np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            result[here] = self._permutation(int(epoch))[positions[here]]
        return result

    def _make_permutation(self, epoch: int) -> np.ndarray:
        # numpy freezes the streams of RandomState, not those of Generator. Seeding with
        # the pair keeps (seed 0, epoch 1) apart from (seed 1, epoch 0).
        bits = np.random.MT19937(np.random.SeedSequence([self._seed, epoch]))
        return np.random.RandomState(bits).permutation(self.length)


class _Batches:
    """A random-access sequence whose element i is the i-th batch, as numpy arrays."""

    def __init__(
        self,
        source: Examples,
        *,
        shape: tuple[int, int],
        columns: slice,
        squeeze: bool,
        order: _Order,
        endless: bool,
        flip_seed: int | None,
    ):
        self._source, self._order, self._flip_seed = source, order, flip_seed
        self._shape, self._columns, self._squeeze = shape, columns, squeeze
        self._endless = endless

    def __len__(self) -> int:
        size = self._shape[0] * self._shape[1]
        return sys.maxsize // size if self._endless else -(-len(self._source) // size)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        i = int(i)
        # The coins are drawn for the global batch, so that they do not depend on P.
        places = i * self._shape[0] * self._shape[1] + np.arange(np.prod(self._shape))
        coins = None
        if self._flip_seed is not None:
            coins = self._mine(coin_flips(self._flip_seed, i, places.size))
        places = self._mine(places)
        if not self._endless:
            kept = places < len(self._source)
            places = places[kept]
            coins = None if coins is None else coins[kept]
        index = self._order(places)
        batch = gather(self._source, index)
        if coins is not None:
            flip_horizontal(batch, coins)
        return {**batch, "index": index}

    def _mine(self, values: np.ndarray) -> np.ndarray:
        values = values.reshape(self._shape)[:, self._columns]
        return values[0] if self._squeeze else values


def gather(source: Examples, index: np.ndarray) -> dict[str, np.ndarray]:
    """The examples at `index` int [...], each entry stacked to [..., *shape]."""
    columns = getattr(source, "columns", None)
    if columns is not None:  # np.take is several times faster than column[index].
        return {k: np.take(v, index, axis=0) for k, v in columns.items()}
    if index.size == 0:
        return {
            k: np.empty(index.shape + np.shape(v), np.asarray(v).dtype)
            for k, v in source[0].items()
        }
    examples = [source[int(j)] for j in index.flat]
    stacked = {k: np.stack([e[k] for e in examples]) for k in examples[0]}
    return {k: v.reshape(index.shape + v.shape[1:]) for k, v in stacked.items()}
