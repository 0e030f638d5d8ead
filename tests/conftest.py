"""What several tests need."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# One compilation cache for all workers of a run; set before anything imports jax.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "genjax-tests")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
# With the tpu extra JAX would look for a TPU first, and say that there is none.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the time goes into compiling what then runs for a moment.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax

from genjax.train import runtime

# 200 cases a test, the same each time; HYPOTHESIS_PROFILE=nightly tries 5,000.
_common = dict(deadline=None, suppress_health_check=list(HealthCheck), database=None)
settings.register_profile("ci", max_examples=200, derandomize=True, **_common)
settings.register_profile("nightly", max_examples=5000, **_common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

runtime.use_all_cores()  # As the commands do.
# A third of that time again. XLA ends the process at a flag that it does not know.
if (0, 10) <= jax.__version_info__ < (0, 11):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"


@pytest.fixture(scope="session")
def tfds_data_dir() -> str:
    """The folder of prepared TFDS data: TFDS_DATA_DIR or ../shared/data."""
    needed = ("cifar10", "mnist", "noto_emoji", "usps")
    beside = str(Path(__file__).parents[2] / "shared" / "data")
    for root in (os.environ.get("TFDS_DATA_DIR", beside), beside):
        if all(Path(root, name).is_dir() for name in needed):
            return root
    pytest.skip(f"TFDS_DATA_DIR does not name a folder that holds {', '.join(needed)}")


@pytest.fixture
def untrained_classifier(tmp_path, monkeypatch) -> Path:
    """A cache folder of its own, and classifiers of features that are not trained."""
    from genjax import images
    from genjax.metrics import features

    def untrained(module, train):
        first = images.to_float(jax.numpy.asarray(train["image"][:1]))
        variables = module.init(jax.random.key(0), first, train=False)
        return jax.device_get(variables["params"])

    monkeypatch.setattr(features, "_fit", untrained)
    monkeypatch.setenv("GENJAX_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"
