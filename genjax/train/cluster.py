"""How the processes of a run on several machines find each other."""

import functools
import os
import re
import sys
import threading
from collections.abc import Callable
from typing import Any

from genjax.config import ConfigError

TIMEOUT = 300  # Seconds; machines that are asked for together do not start together.
FLAGS = {  # Of every command: {name: (type, help)}.
    "coordinator": (str, "host:port where process 0 listens; detected if not given"),
    "num_processes": (int, "how many processes take part; detected if not given"),
    "process_id": (int, "which of them this is, from 0; detected if not given"),
}


def add_flags(add: Callable[..., Any]) -> None:
    """Adds them to an argparse parser, or a group, by its `add_argument`."""
    for name, (kind, text) in FLAGS.items():
        add(f"--{name}", type=kind, help=text)


def join(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Waits for the other processes, if there are any. To be called before JAX is used.

    With none of the three JAX looks for a cluster itself: Slurm, Cloud TPU, GKE, Open
    MPI or, with its extra `k8s`, a Job of Kubernetes. Where it finds none there is one
    process. With all three nothing is looked for, and every device of the machine is
    this process's, unless JAX_LOCAL_DEVICE_IDS names some.

    A process that the others do not meet within `TIMEOUT` ends with 1.

    Args:
        coordinator: "host:port" of process 0, as the others reach it.
        num_processes: How many there are.
        process_id: Which this is.

    Raises:
        ConfigError: If the three do not fit, or JAX could not join what it found.
    """
    given = check(coordinator, num_processes, process_id)
    import jax

    options = {"cluster_detection_method": "deactivate"} if given else {}
    place = f" at --coordinator={coordinator}" if given else ""
    # JAX itself ends the process with a stack trace that does not say what to do.
    timer = threading.Timer(TIMEOUT, functools.partial(give_up, place))
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=2 * TIMEOUT,
            **options,
        )
    except (RuntimeError, ValueError) as error:
        # How JAX says that its detection found no cluster: one process it is.
        if not given and "coordinator_address should be defined" in str(error):
            return
        raise ConfigError(
            f"JAX could not join the processes of this run: {error} Where it does not "
            "find the cluster itself, give each process --coordinator=host:port, "
            "--num_processes and --process_id"
        ) from error
    finally:
        timer.cancel()


def check(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> bool:
    """Whether the three are given.

    Raises:
        ConfigError: If only some are, or they cannot be.
    """
    values = dict(zip(FLAGS, (coordinator, num_processes, process_id), strict=True))
    missing = [f"--{name}" for name, value in values.items() if value is None]
    if len(missing) == len(values):
        return False
    if missing:
        raise ConfigError(
            "--coordinator, --num_processes and --process_id go together: "
            f"{' and '.join(missing)} lacking. With none of them JAX looks for the "
            "cluster itself"
        )
    match = re.fullmatch(r"(\[[^]]+\]|[^:/\s]+):(\d{1,5})", coordinator)
    if not match or not 0 < int(match[2]) < 2**16:
        raise ConfigError(
            "--coordinator must be host:port, as the other processes reach process 0, "
            f"such as 10.0.0.1:1234: got {coordinator!r}"
        )
    if not 0 <= process_id < num_processes:
        raise ConfigError(
            "--process_id must be from 0 to one less than --num_processes: got "
            f"--process_id={process_id} and --num_processes={num_processes}"
        )
    return True


def give_up(place: str) -> None:
    """Ends the process, which waits within JAX, and says what to look at."""
    print(
        f"error: not all processes of this run met{place} within {TIMEOUT} s. Look "
        "whether process 0 runs there, whether the others reach that port (name of the "
        "host, firewall), whether each has a --process_id of its own, and whether as "
        "many were started as --num_processes says",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)
