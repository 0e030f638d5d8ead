"""Kills training runs at random and at chosen moments, and looks what was lost.

python -m benchmarks.kill_soak [--kills=200] [--methods=made_digits,vae_digits,...]
    [--seed=0] [--folder=<scratch>] [--out=kill_soak.json]

Every method's tiny recipe is trained twice without interruption, by `train.py` in a
process of its own. Then the same command runs again and again, and each time is killed
by SIGKILL, in turn: while it starts, while it trains, while arrays are written, right
before the rename that commits a checkpoint, and while an old checkpoint is deleted.
When such a run has reached its end it is compared with the uninterrupted one, and the
next begins. After the last kill the run may go on to its end.

A checkpoint is lost if the next process goes on from an earlier step than the newest
that had been committed, and left broken if a folder with a step's name is not whole.
The steps lost are those that were logged and had to be trained again. Equal means to
the bit: parameters, averages, optimisers, model state, step and data position.
"""

import argparse
import itertools
import json
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
METHODS = (
    "made_digits", "gated_pixelcnn_digits", "vae_digits", "vqvae_digits",
    "wgan_gp_digits", "realnvp_digits", "igebm_digits", "ncsn_digits", "ddpm_digits",
)  # fmt: skip
MOMENTS = {
    "start": "starting",
    "training": "training",
    "write": "writing arrays",
    "rename": "before the rename",
    "delete": "deleting",
}
# Saves follow each other closely; checkpoint.keep=2 has old ones deleted at each.
FIELDS = {"num_steps": 60, "checkpoint.every": 2, "log_every": 1, "sample_every": 0}
TEMPORARY = re.compile(r"/checkpoints/\d+\.orbax-checkpoint-tmp[^/]*$")
OLD = re.compile(r"/checkpoints/(\d+|deleting)$")
DELETIONS = ("os.rename", "os.remove", "os.rmdir")
SAYING = re.compile(r"from step (\d+)")


@dataclass
class Tally:
    """What a method's kills have shown so far."""

    method: str
    kills: Counter = field(default_factory=Counter)  # By moment.
    runs: int = 0  # Ended and compared.
    lost: int = 0  # Committed checkpoints that the next process did not find.
    broken: int = 0  # Checkpoints under a step's name that were not whole.
    steps: int = 0  # Logged before a kill and trained again, at most.
    silent: int = 0  # Resumed without saying from where.
    different: list[str] = field(default_factory=list)  # Arrays of those runs.

    def row(self) -> str:
        """In Markdown."""
        cells = [f"`{self.method}`", self.kills.total()]
        cells += [self.kills[moment] for moment in MOMENTS]
        cells += [self.lost, self.broken, self.steps, self.runs]
        cells += [f"no: {self.different[0]}" if self.different else "yes"]
        return "| " + " | ".join(map(str, cells)) + " |"


def table(tallies: list[Tally]) -> str:
    """All methods, in Markdown."""
    head = ["method", "kills", *MOMENTS.values(), "checkpoints lost"]
    head += [
        "left broken",
        "steps lost at most",
        "runs to their end",
        "equal to the bit",
    ]
    total = Tally("all")
    for tally in tallies:
        total.kills += tally.kills
        total.lost, total.runs = total.lost + tally.lost, total.runs + tally.runs
        total.broken += tally.broken
        total.steps = max(total.steps, tally.steps)
        total.different += [f"{tally.method} {x}" for x in tally.different]
    rows = [tally.row() for tally in [*tallies, total]]
    return "\n".join(["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *rows])


def words(recipe: str, workdir: Path, aim: str | None = None) -> list[str]:
    """The command that trains; with an aim it kills itself at that moment."""
    python = [sys.executable]
    python += ["-m", "benchmarks.kill_soak", f"--aim={aim}"] if aim else ["train.py"]
    fields = [f"--config.{name}={value}" for name, value in FIELDS.items()]
    config = f"--config=configs/{recipe}.py:tiny"
    return [*python, config, f"--workdir={workdir}", *fields]


def soak(
    recipe: str,
    kills: int,
    folder: Path,
    draw: random.Random,
    *,
    twice: bool = True,
    show: Callable[[str], None] = lambda line: None,
) -> Tally:
    """Kills runs of a recipe that many times.

    Args:
        recipe: Name of the recipe.
        kills: How often.
        folder: An empty one, to work in.
        draw: Chooses the moments more closely.
        twice: Whether to see first that two uninterrupted runs are equal.
        show: Is told of every process that has ended.

    Raises:
        RuntimeError: If a run ends in another way than by our signal or by finishing,
            or if two uninterrupted runs differ.
    """
    tally, moments = Tally(recipe), itertools.cycle(MOMENTS)
    aim = next(moments)  # Again where the run ended before.
    for name in ("straight", "again") if twice else ("straight",):
        began = time.monotonic()
        run(words(recipe, folder / name))
        whole = time.monotonic() - began
    expected = contents(folder / "straight")
    if twice and (found := differences(expected, contents(folder / "again"))):
        raise RuntimeError(f"{recipe} is not deterministic: {found}")
    while kills:
        tally.runs += 1
        workdir = folder / f"killed{tally.runs}"
        trained = newest = 0  # The last step logged, and the last one committed.
        ended = False
        while not ended:
            moment = aim if kills else None
            before = len(logged(workdir))
            ended, said = start(recipe, workdir, moment, draw, whole)
            lines, told = logged(workdir), SAYING.search(said)
            resumed = int(told[1]) if told else None
            if len(lines) > before:  # What it did counts, not what it said.
                resumed = lines[before]["step"] - 1
                tally.silent += resumed > 0 and told is None
            if resumed is not None:
                tally.steps = max(tally.steps, trained - resumed)
                tally.lost += resumed < newest
            trained = lines[-1]["step"] if lines else 0
            steps = committed(workdir)
            newest = max(steps, default=0)
            tally.broken += sum(not is_whole(workdir, step) for step in steps)
            if not ended:
                kills -= 1
                tally.kills[moment] += 1
                aim = next(moments)
            show(f"{recipe} {moment}: resumed {resumed}, at {trained}, has {newest}")
        tally.different += differences(expected, contents(workdir))
        shutil.rmtree(workdir)
    return tally


def start(
    recipe: str,
    workdir: Path,
    moment: str | None,
    draw: random.Random,
    whole: float,
) -> tuple[bool, str]:
    """Trains until the kill or the end: whether that was the end, and what it said.

    Args:
        recipe: Name of the recipe.
        workdir: The run.
        moment: One of MOMENTS; None lets it end.
        draw: As in `soak`.
        whole: Seconds that an uninterrupted process takes.
    """
    if moment == "write":
        # Which save, and how long after its folder was made.
        aim = f"write:{draw.randint(1, 4)}:{draw.uniform(0, 0.05):.4f}"
    elif moment in ("rename", "delete"):
        # Which rename, or how many files are gone.
        aim = f"{moment}:{draw.randint(1, 4 if moment == 'rename' else 30)}:0"
    else:
        aim = None
    lines = len(logged(workdir))
    with open(workdir.with_suffix(".txt"), "w+") as said:
        process = subprocess.Popen(
            words(recipe, workdir, aim),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
        try:
            if moment == "start":
                wait(process, draw.uniform(0, 0.9 * whole))
                process.kill()
            elif moment == "training":
                lines += draw.randint(1, 30)
                while process.poll() is None and len(logged(workdir)) < lines:
                    time.sleep(0.01)
                wait(process, draw.uniform(0, 0.05))
                process.kill()
            process.wait(timeout=600)
        finally:
            process.kill()
            process.wait()
        said.seek(0)
        text = said.read()
    if process.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{recipe} ended with {process.returncode}: {text[-3000:]}")
    return process.returncode == 0, text


def wait(process: subprocess.Popen, seconds: float) -> None:
    """Sleeps, but not longer than the process lives."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return


def run(command: list[str]) -> None:
    """To its end.

    Raises:
        RuntimeError: If it fails, with the last that it said.
    """
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr}")


def logged(workdir: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def committed(workdir: Path) -> list[int]:
    """The steps that have a checkpoint by name."""
    found = (workdir / "checkpoints").glob("[0-9]*")
    return [int(path.name) for path in found if path.name.isdigit()]


def contents(workdir: Path, step: int | None = None) -> dict[str, bytes]:
    """Every array of a checkpoint by its path, with step and data position.

    Args:
        workdir: The run.
        step: By default the newest.
    """
    import numpy as np

    from genjax.train import checkpoints, sums

    step = max(committed(workdir)) if step is None else step
    folder = workdir / "checkpoints" / str(step)
    plains = checkpoints.read_plains(folder)
    shapes = checkpoints.metadata(folder)
    arrays = sums.named_leaves(checkpoints.read_arrays(folder, shapes, plains))
    position = json.dumps([step, plains["position"]], sort_keys=True).encode()
    return {"": position, **{k: np.asarray(x).tobytes() for k, x in arrays.items()}}


def is_whole(workdir: Path, step: int) -> bool:
    """Whether all of a checkpoint is what was saved."""
    from genjax.train.checkpoints import DamagedCheckpointError

    try:
        return bool(contents(workdir, step))
    except (DamagedCheckpointError, OSError):
        return False


def differences(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """Names of what is not equal to the bit, or in one of them only."""
    return sorted(k for k in {*one, *other} if one.get(k) != other.get(k))


def arm(moment: str, count: int, delay: float) -> None:
    """Has this process kill itself when it has come to a moment `count` times.

    Python tells of file operations before it does them; writing arrays is not its
    own, so that is awaited from the moment on which their folder is made.
    """
    seen, deleting = itertools.count(1), False

    def hit(event: str, args: tuple) -> bool:
        nonlocal deleting
        path = os.fspath(args[0]) if args and isinstance(args[0], str | Path) else ""
        if moment == "write":
            return event == "os.mkdir" and TEMPORARY.search(path) is not None
        if moment == "rename":
            return event == "os.rename" and TEMPORARY.search(path) is not None
        if event in ("os.rename", "shutil.rmtree"):
            deleting |= OLD.search(path) is not None
        return deleting and event in DELETIONS

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def watch(event: str, args: tuple) -> None:
        watched = event.startswith(("os.", "shutil.")) and hit(event, args)
        if watched and next(seen) == count:
            threading.Timer(delay, die).start() if delay else die()

    sys.addaudithook(watch)


def main() -> None:
    if sys.argv[1:2] and sys.argv[1].startswith("--aim="):  # We are the one to die.
        moment, count, delay = sys.argv.pop(1).removeprefix("--aim=").split(":")
        arm(moment, int(count), float(delay))
        sys.argv[0] = "train.py"
        sys.path[0] = str(ROOT)
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--methods", default=",".join(METHODS), help="tiny recipes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="to work in; by default temporary")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    methods, draw, tallies = args.methods.split(","), random.Random(args.seed), []
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        # Its own cache, for a kill may hit the writing of an entry too.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(scratch) / "cache")
        for i, method in enumerate(methods):
            kills = len(range(i, args.kills, len(methods)))
            folder = Path(scratch) / method
            folder.mkdir()
            tallies.append(
                soak(method, kills, folder, draw, show=partial(print, flush=True))
            )
            shutil.rmtree(folder)
            print(table(tallies), flush=True)
            if args.out:
                report = {"seconds": time.monotonic() - began, "fields": FIELDS}
                report["methods"] = [vars(tally) for tally in tallies]
                args.out.write_text(json.dumps(report, indent=1) + "\n")
    if any(t.lost or t.broken or t.different or t.silent for t in tallies):
        sys.exit("error: something was lost")


if __name__ == "__main__":
    main()
