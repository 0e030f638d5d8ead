"""Batches on their way to the devices, one ahead of the step that takes them."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from genjax.train.sharding import to_global


class Feed:
    """Iterates over (batch on the devices, index of its examples).

    The next batch is sent before the step that takes this one is given to the devices.
    A GPU copies an array in once the work that it was given before is done, so that a
    batch sent after that step would leave the GPU idle while it travels.
    """

    def __init__(self, batches: Any, place: Sharding):
        """Starts where `batches`, of `data.batches`, stands; arrays go to `place`."""
        self.batches, self.place = batches, place
        self.fetch()

    def fetch(self) -> None:
        """Sends the batch after this one."""
        before = self.batches.get_state()
        batch = next(self.batches)  # If this fails, the batch ahead is still to come.
        index = batch.pop("index")
        self.before, self.ahead = before, (to_global(batch, self.place), index)

    def __iter__(self) -> "Feed":
        return self

    def __next__(self) -> tuple[dict[str, jax.Array], np.ndarray]:
        now = self.ahead
        self.fetch()
        return now

    def get_state(self) -> dict[str, Any]:
        """The position before the batch that comes next, for `set_state` of batches."""
        return self.before
