"""The run's folder: made for one config, and refused to another."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from genjax.config import ConfigError, flatten, plain
from genjax.train.writers import say

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
        allow: Called with the folder and with what differs from the config of a started
            run, if that alters its weights' meaning or shape; raises to refuse it. By
            default it is refused.

    Returns:
        Its absolute path, with `config.json` in it, and in `changes.jsonl` what a
        started run's config had otherwise.

    Raises:
        ConfigError: If it holds a run with another config, with the differences; or
            if it cannot be written, or not all processes see it.
    """
    if "://" in str(workdir):
        raise ConfigError(
            f"--workdir={workdir} must be a folder, not an address: mount the bucket, "
            "and name the folder where it is mounted"
        )
    workdir = Path(workdir).expanduser().resolve()
    path = workdir / "config.json"
    new, found = plain(config), {}
    # A run that saved no checkpoint has nothing that another config could spoil.
    if path.exists() and any((workdir / "checkpoints").glob("[0-9]*")):
        found = differences(json.loads(path.read_text()), new)
        # With phases, other lengths would move what is done into another phase.
        soft = [k for k in SOFT if k != "num_steps" or not config.phases]
        hard = {k: v for k, v in found.items() if not k.startswith(tuple(soft))}
        if hard and allow is None:
            raise ConfigError(refusal(workdir, hard))
        if hard:
            allow(workdir, hard)
        for name, (old, now) in found.items():
            say(f"Going on with {name}: {old} before, {now} now.")
    problem = None
    if jax.process_index() == 0:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")  # Other processes may be reading.
            part.write_text(json.dumps(new, indent=1) + "\n")
            part.replace(path)
            if found:
                record(workdir, {"step": last_step(workdir), "config": found})
        except OSError as error:
            problem = f"--workdir={workdir} cannot be written: {error}"
    blind = [] if jax.process_count() == 1 else processes_without(path)
    if problem is None and blind:
        problem = (
            f"--workdir={workdir} must lie on storage that all machines share, but "
            f"what process 0 wrote there did not reach the processes {blind} within "
            f"{PATIENCE} s"
        )
    if problem is not None:
        raise ConfigError(problem)
    return workdir


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
        f"same values, or --partial to go on with these:\n{shown(lines)}"
    )


def shown(lines: list[str]) -> str:
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
