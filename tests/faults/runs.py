"""Real runs in processes of their own, to be killed, starved and started again."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from genjax.train import checkpoints

ROOT = Path(__file__).parents[2]
RECIPE = "configs/vae_digits.py:tiny"
FIELDS = {"log_every": 1, "sample_every": 0, "eval_every": 0}


def words(workdir: str | Path, recipe: str = RECIPE, **fields: object) -> list[str]:
    """The command that trains, with fields such as num_steps=8, checkpoint__every=2."""
    fields = {k.replace("__", "."): v for k, v in {**FIELDS, **fields}.items()}
    return [
        sys.executable, "train.py", f"--config={recipe}", f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in fields.items()),
    ]  # fmt: skip


def start(command: list[str], **options) -> subprocess.Popen:
    """Starts it in the root of the project, in a process group of its own."""
    return subprocess.Popen(
        command,
        **{
            "cwd": ROOT,
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.PIPE,
            "text": True,
            "start_new_session": True,
            **options,
        },
    )


def finish(command: list[str], timeout: float = 240, **options) -> tuple[int, str]:
    """Runs it to its end: the exit code, and what it said."""
    process = start(command, **options)
    try:
        _, said = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, said


def wait_for(
    condition: Callable[[], object],
    process: subprocess.Popen | None = None,
    timeout: float = 180,
) -> None:
    """Returns when the condition holds; fails if the process ends before."""
    deadline = time.monotonic() + timeout
    while not condition():
        if process is not None and process.poll() is not None:
            said = process.stderr.read() if process.stderr else ""
            raise AssertionError(f"ended with {process.returncode}: {said[-3000:]}")
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def logged(workdir: Path) -> list[dict]:
    """The whole lines of metrics.jsonl, [] before there is one."""
    path = workdir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [
        json.loads(line) for line in text.splitlines(keepends=True) if line[-1:] == "\n"
    ]


def saved(workdir: Path) -> list[int]:
    """The steps that have a committed checkpoint, in order."""
    found = (workdir / "checkpoints").glob("[0-9]*")
    return sorted(int(path.name) for path in found if path.name.isdigit())


def arrays(workdir: Path, step: int | None = None) -> Mapping[str, np.ndarray]:
    """Every array of a checkpoint by its path, of the last if no step is given."""
    folder = Path(workdir) / "checkpoints"
    step = saved(workdir)[-1] if step is None else step
    args = checkpoints.ocp.args
    with checkpoints.ocp.CheckpointManager(
        folder, item_handlers=checkpoints.handlers()
    ) as manager:
        items = {name: args.StandardRestore() for name in ("weights", "training")}
        tree = manager.restore(step, args=args.Composite(**items))
    flat, _ = jax.tree_util.tree_flatten_with_path(dict(tree.items()))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}


def different(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> list:
    """Names of the arrays that are not equal to the bit."""
    assert one.keys() == other.keys()
    return [k for k in one if one[k].tobytes() != other[k].tobytes()]
