"""The run's folder: made for one config, and refused to another."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from genjax.config import ConfigError, flatten, plain
from genjax.files import check_writable, replacing
from genjax.train.lock import NAME, Lock
from genjax.train.writers import say

# Fields that a resumed run may change: they alter no weights' meaning or shape.
SOFT = (
    "checkpoint.",
    "data.data_dir",
    "data.num_threads",
    "eval_",
    "log_every",
    "max_bad_steps",
    "mesh.",
    "num_samples",
    "num_steps",
    "sample_every",
    "sampler",
    "sharding_rules",
)

NO_NAMES = "[]*?\\"  # Orbax looks for its own files by a pattern that starts with ours.
PATIENCE = 60  # Seconds in which a file must reach the other machines: NFS takes some.


def claim(workdir: str | Path, config: ConfigDict) -> Path:
    """Makes the folder, or checks that it was made for this config.

    Returns:
        Its absolute path, with `config.json` in it.

    Raises:
        ConfigError: If it holds a run with another config, with the differences; or
            if it cannot be written, or not all processes see it.
    """
    workdir = locate(workdir)
    path, problem = workdir / "config.json", None
    new = plain(config)
    for name, (old, now) in differences(workdir, config).items():
        say(f"Going on with {name}: {old} before, {now} now.")
    if jax.process_index() == 0:
        try:
            with replacing(path) as part:  # Other processes may be reading.
                part.write_text(json.dumps(new, indent=1) + "\n")
        except OSError as error:
            problem = f"--workdir={workdir} cannot be written: {error}"
    agree(problem)
    blind = [] if jax.process_count() == 1 else processes_without(path)
    if blind:
        raise ConfigError(
            f"--workdir={workdir} must lie on storage that all machines share, but "
            f"what process 0 wrote there did not reach the processes {blind} within "
            f"{PATIENCE} s"
        )
    return workdir


def differences(workdir: str | Path, config: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """{field: (value there, value here)} where they differ and a run may go on.

    Raises:
        ConfigError: If they differ where it may not.
    """
    workdir = locate(workdir)
    path = workdir / "config.json"
    # A run that saved no checkpoint has nothing that another config could spoil.
    if not path.exists() or not any((workdir / "checkpoints").glob("[0-9]*")):
        return {}
    old, new = flatten(json.loads(path.read_text())), flatten(plain(config))
    found = {
        name: (old.get(name), new.get(name))
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    }
    # With phases, other lengths would move what is done into another phase.
    soft = [k for k in SOFT if k != "num_steps" or not config.phases]
    hard = {k: v for k, v in found.items() if not k.startswith(tuple(soft))}
    if hard:
        lines = [f"  {k}: {old} there, {now} here" for k, (old, now) in hard.items()]
        more = f"\n  and {len(lines) - 10} more" if len(lines) > 10 else ""
        raise ConfigError(
            f"{workdir} holds a run with another config; give another --workdir, "
            "or the same values:\n" + "\n".join(lines[:10]) + more
        )
    return found


@contextlib.contextmanager
def hold(workdir: str | Path) -> Iterator[Callable[[], None]]:
    """Keeps other runs out of the folder, which is made and tried out.

    Of several processes the first does so for all.

    Yields:
        What lets the next run in, at the end if not before.

    Raises:
        ConfigError: If it cannot be written, or another run is in it.
    """
    workdir = locate(workdir)
    lock = problem = None
    made = not workdir.exists()
    if jax.process_index() == 0:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            lock = Lock(workdir / NAME)
            probe(workdir)
        except OSError as error:
            problem = f"--workdir={workdir} cannot be written: {error}"
        except ConfigError as error:
            problem = str(error)
    release = lock.release if lock else lambda: None
    try:
        agree(problem)
        yield release
    finally:
        release()
        if lock and made:
            with contextlib.suppress(OSError):  # It is empty if nothing came of it.
                workdir.rmdir()


def locate(workdir: str | Path) -> Path:
    """The absolute path.

    Raises:
        ConfigError: If it cannot be a folder.
    """
    if "://" in str(workdir):
        raise ConfigError(
            f"--workdir={workdir} must be a folder, not an address: mount the bucket, "
            "and name the folder where it is mounted"
        )
    try:
        path = Path(workdir).expanduser().resolve()
        is_file = path.exists() and not path.is_dir()
    except (OSError, RuntimeError) as error:  # Too long, or links in a circle.
        raise ConfigError(f"--workdir={workdir} cannot be a folder: {error}") from None
    if found := sorted(set(NO_NAMES) & set(str(path))):
        raise ConfigError(
            f"--workdir={workdir} must do without {' '.join(found)}, all folders above "
            f"included ({path}): what Orbax saves there cannot be read again"
        )
    if is_file:
        raise ConfigError(f"--workdir={workdir} must be a folder, but is a file")
    return path


def probe(workdir: Path) -> None:
    """Raises OSError unless all can be written that a run writes there."""
    check_writable(workdir)
    for name in ("checkpoints", "samples", "tensorboard"):
        if (workdir / name).exists():
            check_writable(workdir / name)
    lines = workdir / "metrics.jsonl"
    if lines.exists():
        lines.open("ab").close()


def agree(problem: str | None) -> None:
    """Raises ConfigError with the problem, in all processes if the first has one."""
    found = np.array(problem is not None)
    if jax.process_count() > 1:
        found = multihost_utils.process_allgather(found)
    if np.any(found):
        raise ConfigError(problem or "process 0 cannot go on, and says why")


def processes_without(path: Path) -> list[int]:
    """Those that do not see a file; all of them are to ask, and get the same answer."""
    multihost_utils.sync_global_devices("genjax: process 0 has written")
    deadline = time.monotonic() + PATIENCE
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.5)
    sees = multihost_utils.process_allgather(np.array(path.exists()))
    return np.flatnonzero(~sees).tolist()
