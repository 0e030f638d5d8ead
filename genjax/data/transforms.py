"""Random changes to a batch of examples, in numpy, before it reaches a device."""

import numpy as np


def coin_flips(seed: int, index: int, count: int) -> np.ndarray:
    """`count` fair coins, bool, that depend on (seed, index) alone.

    The raw stream of a counter-based generator is the same on every platform and numpy
    version, which drawing through `np.random.Generator` does not promise.
    """
    bits = np.random.Philox(key=seed, counter=[0, 0, 0, index]).random_raw(count)
    return bits >> np.uint64(63) == 1


def flip_horizontal(batch: dict[str, np.ndarray], coins: np.ndarray) -> None:
    """Mirrors the images of a batch left to right, in place, where `coins` is true.

    Args:
        batch: Entries [..., H, W, C] whose names start with "image" are mirrored, all
            with the same coin, so that the two images of a pair still match.
        coins: bool [...], one for each example.
    """
    for name, value in batch.items():
        if name.startswith("image"):
            # Whole pixels move in half the time that their channels would take.
            pixels = value.view(f"V{value.itemsize * value.shape[-1]}")[..., 0]
            pixels[coins] = pixels[coins][..., ::-1]
