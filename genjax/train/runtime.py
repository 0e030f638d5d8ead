"""What a command sets up before its first JAX call."""

import os

import jax
import platformdirs
from absl import logging


def start() -> None:
    """Joins the cluster, if there is one, and turns the compilation cache on.

    The cache lies in the user's cache folder; JAX_COMPILATION_CACHE_DIR moves it.
    """
    logging.set_verbosity(logging.ERROR)  # Orbax warns of what is meant to be so.
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = platformdirs.user_cache_dir("genjax")
        jax.config.update("jax_compilation_cache_dir", os.path.join(folder, "jax"))
    # Small programs count too: a start makes dozens of them.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
    try:
        jax.distributed.initialize()
    except ValueError as error:
        # How JAX says that its detection found no cluster: one process it is.
        if "coordinator_address should be defined" not in str(error):
            raise
