"""The run's folder: made for one config, and refused to another."""

import contextlib
import json
import os
import shutil
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
from genjax.untrusted import read_json, reading

Changes = dict[str, tuple[Any, Any]]  # {name: (there, here)}.

# Fields that a resumed run may change: they alter no weights' meaning or shape.
SOFT = (
    "checkpoint.",
    "data.data_dir",
    "data.num_threads",
    "dtype",
    "eval_",
    "log_every",
    "max_bad_steps",
    "mesh.",
    "num_samples",
    "num_steps",
    "remat",
    "sample_every",
    "sampler",
    "sharding_rules",
)

NO_NAMES = "[]*?\\"  # Orbax looks for its own files by a pattern that starts with ours.
PATIENCE = 60  # Seconds in which a file must reach the other machines: NFS takes some.


def claim(
    workdir: str | Path,
    config: ConfigDict,
    allow: Callable[[Path, Changes], None] | None = None,
) -> Path:
    """Makes the folder, or checks that it was made for this config.

    Args:
        workdir: The folder.
        config: Resolved.
        allow: See `changed`.

    Returns:
        Its absolute path, with `config.json` in it, and in `changes.jsonl` what a
        started run's config had otherwise.

    Raises:
        ConfigError: If it holds a run with another config, with the differences; or
            if it cannot be written, or not all processes see it.
    """
    workdir = locate(workdir)
    path, problem = workdir / "config.json", None
    found = changed(workdir, config, allow)
    for name, (old, now) in found.items():
        say(f"Going on with {name}: {old} before, {now} now.")
    if jax.process_index() == 0:
        try:
            with replacing(path) as part:  # Other processes may be reading.
                part.write_text(json.dumps(plain(config), indent=1) + "\n")
            if found:
                record(workdir, {"step": last_step(workdir), "config": found})
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


def changed(
    workdir: str | Path,
    config: ConfigDict,
    allow: Callable[[Path, Changes], None] | None = None,
) -> Changes:
    """What a started run's config has otherwise, if it may go on with this one.

    Args:
        workdir: The folder.
        config: Resolved.
        allow: Called with the folder and with what alters the meaning or shape of
            weights; raises to refuse it. By default it is refused.

    Raises:
        ConfigError: If it may not.
    """
    workdir = locate(workdir)
    path = workdir / "config.json"
    # A run that saved no checkpoint has nothing that another config could spoil.
    if not path.exists() or not any((workdir / "checkpoints").glob("[0-9]*")):
        return {}
    with reading(path):
        found = differences(read_json(path), plain(config))
    # With phases, other lengths would move what is done into another phase.
    soft = [k for k in SOFT if k != "num_steps" or not config.phases]
    hard = {k: v for k, v in found.items() if not k.startswith(tuple(soft))}
    if hard and allow is None:
        raise ConfigError(refusal(workdir, hard))
    if hard:
        allow(workdir, hard)
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
        if lock and made and os.listdir(workdir) == [NAME]:  # Nothing came of it.
            shutil.rmtree(workdir, ignore_errors=True)
        release()


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


def refusal(workdir: Path, changes: Changes) -> str:
    """Why a run with another config does not go on, with the first ten fields."""
    lines = [f"{name}: {old} there, {now} here" for name, (old, now) in changes.items()]
    return (
        f"{workdir} holds a run with another config; give another --workdir, or the "
        f"same values, or --partial to go on with these:\n{listed(lines)}"
    )


def listed(lines: list[str]) -> str:
    """The first ten, indented, and how many more there are."""
    more = [f"and {len(lines) - 10} more"] if len(lines) > 10 else []
    return "\n".join(f"  {line}" for line in [*lines[:10], *more])


def last_step(workdir: Path) -> int:
    """The step of the newest checkpoint, of a run that has one."""
    names = [path.name for path in (workdir / "checkpoints").glob("[0-9]*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def record(workdir: Path, line: dict[str, Any]) -> None:
    """Appends the line and the time to `changes.jsonl`, which tells of the run's past.

    Of several processes the first does.
    """
    if jax.process_index() == 0:
        with open(workdir / "changes.jsonl", "a") as file:
            file.write(json.dumps({"time": round(time.time(), 3), **line}) + "\n")


def differences(old: dict[str, Any], new: dict[str, Any]) -> Changes:
    """{field: (old value, new value)} where two plain configs differ."""
    old, new = flatten(old), flatten(new)
    return {
        name: (old.get(name), new.get(name))
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    }
