"""What several tests need."""

import os
import tempfile
from pathlib import Path

import pytest

# One compilation cache for all workers of a run; set before anything imports jax.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "genjax-tests")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

from genjax.train import runtime

runtime.use_all_cores()  # As the commands do.


@pytest.fixture(scope="session")
def tfds_data_dir() -> str:
    """The folder of prepared TFDS data: TFDS_DATA_DIR or ../shared/data."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    if root := os.environ.get("TFDS_DATA_DIR"):
        return root
    if beside.is_dir():
        return str(beside)
    pytest.skip("no prepared data: set TFDS_DATA_DIR to TFDS's folder to run this test")
