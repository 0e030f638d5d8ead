"""Data: random-access sources of examples, and batches of them."""

from genjax.data import synthetic
from genjax.data.pipeline import batches, gather
from genjax.data.sources import DataError, Dataset, Examples, load

__all__ = [
    "DataError",
    "Dataset",
    "Examples",
    "batches",
    "gather",
    "load",
    "synthetic",
]
