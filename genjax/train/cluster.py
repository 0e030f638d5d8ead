"""How the processes of a run on several machines find each other."""

import contextlib
import functools
import inspect
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from genjax.config import ConfigError

TIMEOUT = 300  # Seconds; machines that are asked for together do not start together.
HEARTBEAT = 60  # Seconds; one that is not heard of for so long takes all others down.
LINGER = 5  # Seconds that process 0 gives the others to say what they found.
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

    A process that the others do not meet within `TIMEOUT` ends with 1. Later, one that
    is killed or stands still is missed within `HEARTBEAT`, and JAX ends all the others.

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
    if (
        "heartbeat_timeout_seconds"
        in inspect.signature(jax.distributed.initialize).parameters
    ):  # Older versions have 100, and no way to say another.
        options["heartbeat_timeout_seconds"] = HEARTBEAT
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


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends the process at once if what is within fails in a cluster.

    Otherwise it would wait for the others at its exit, as JAX has it, and they for it
    in the middle of a step. One process alone ends as always.
    """
    try:
        yield
    except BaseException as error:
        failed = not isinstance(error, SystemExit) or error.code not in (None, 0)
        if failed and is_joined():
            end(error)
        raise


def is_joined() -> bool:
    """Whether this is one of several processes."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def end(error: BaseException) -> None:
    """Ends the process with the error's code, or 1, and what Python would say."""
    code = error.code if isinstance(error, SystemExit) else 1
    if not isinstance(error, SystemExit):
        traceback.print_exception(error)
    elif not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    if sys.modules["jax"].process_index() == 0:  # With it all others end.
        time.sleep(LINGER)
    os._exit(code)


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
