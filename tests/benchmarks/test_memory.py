"""What saves memory, on a step that keeps many layers."""

import dataclasses
import math

import jax
import recipes

from benchmarks import memory
from genjax.train import topology


def test_memory_is_saved_by_computing_again_and_by_smaller_batches():
    config = recipes.get("image_transformer_digits")
    config.model.network.num_blocks, config.data.batch_size = 8, 64
    chip = dataclasses.replace(topology.CHIPS["v5e"], memory=math.inf)
    found = memory.peaks(config, jax.devices()[:1], chip)
    plain = found["neither"]
    assert found["remat"] < 0.6 * plain and found["accumulate=4"] < 0.6 * plain
    assert found["both"] < min(found["remat"], found["accumulate=4"])
