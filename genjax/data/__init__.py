"""Data: random-access sources of examples, and batches of them."""

from genjax.data.pipeline import batches
from genjax.data.sources import Dataset, load

__all__ = ["Dataset", "batches", "load"]
