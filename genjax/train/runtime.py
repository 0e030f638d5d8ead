"""What a command sets up before its first JAX call."""

import os
from pathlib import Path

import jax
import platformdirs
from absl import logging

from genjax.train import cluster, stopping

# Which operations XLA's CPU backend gives to its library YNNPACK.
YNNPACK_FLAG = "--xla_cpu_experimental_ynn_fusion_type"


def use_all_cores() -> None:
    """Keeps XLA's CPU backend from YNNPACK, whose convolutions use one core only.

    What remains, Eigen, uses all. Where there is AVX-512, YNNPACK keeps the sums and
    the matrix products, which it is faster at: see docs/performance.md. XLA ends the
    process at a flag that it does not know, so this is for versions that were looked
    at, and a value of the user's in XLA_FLAGS stays. To be called before JAX is first
    used.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    known = (0, 9, 2) <= jax.__version_info__ < (0, 13)
    if known and YNNPACK_FLAG not in flags:
        kept = ("REDUCE", "INDIVIDUAL_DOT") if has_avx512() else ()
        kept = ",".join(f"LIBRARY_FUSION_TYPE_{kind}" for kind in kept)
        os.environ["XLA_FLAGS"] = f"{flags} {YNNPACK_FLAG}={kept}".strip()


def has_avx512() -> bool:
    """Whether Linux says that the processor knows AVX-512."""
    described = Path("/proc/cpuinfo")
    return described.exists() and "avx512f" in described.read_text()


def start(*, stoppable: bool = False, **processes: str | int | None) -> None:
    """Joins the cluster, if there is one, and turns the compilation cache on.

    The cache lies in the user's cache folder; JAX_COMPILATION_CACHE_DIR moves it.

    Args:
        stoppable: Whether the command asks between its steps if it is to stop, as
            `stopping.StopRequest` does. Otherwise SIGTERM and SIGINT end it at once,
            although in a cluster JAX takes the first, for those who ask.
        **processes: Those of `cluster.join`.

    Raises:
        ConfigError: If they cannot be joined.
    """
    use_all_cores()
    # Orbax warns of what is meant to be so, and its errors are raised and told by us.
    logging.set_verbosity(logging.FATAL)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = platformdirs.user_cache_dir("genjax")
        jax.config.update("jax_compilation_cache_dir", os.path.join(folder, "jax"))
    # Small programs count too: a start makes dozens of them.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
    cluster.join(**processes)
    if not stoppable:
        stopping.end_at_once()
