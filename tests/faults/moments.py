"""Runs a command that comes to a moment and stays in it, and says so.

python moments.py MOMENT FILE train.py ...
"""

import runpy
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from genjax.train import checkpoints, evaluation, feed, loop, phases, sampling

STEP = 3  # At which training comes to it.


def compute() -> None:
    """Keeps the main thread within XLA, where Python runs no handler."""
    spin = jax.jit(lambda x: jax.lax.while_loop(lambda x: x >= 0, lambda x: x * x, x))
    spin(0.5).block_until_ready()


def wait() -> None:
    """As for data that do not come."""
    threading.Event().wait()


def change(place: object, name: str, stay: Callable[[], None], file: Path, at=1):
    """Has the function stay, when it is called for the `at`-th time."""
    original, calls = getattr(place, name), []

    def changed(*args, **options):
        calls.append(args)
        if len(calls) == at:
            file.touch()
            stay()
        return original(*args, **options)

    setattr(place, name, changed)


def compiling(file: Path) -> None:
    """The first call of the train step does not come back."""
    original = phases.jit_train_step

    def made(phase, state):
        def step(*args):
            file.touch()
            compute()

        step.eval_shape = original(phase, state).eval_shape
        return step

    phases.jit_train_step = made


def half(place: object, name: str, file: Path) -> None:
    """What writes an array or a text to a file writes a part of it, and stays."""

    def changed(path, *args, **options):
        if hasattr(path, "write"):
            path.write(b"half")
            path.flush()
        else:
            path.write_bytes(b"half")
        file.touch()
        wait()

    setattr(place, name, changed)


def saving(file: Path) -> None:
    """The second save does not come back, the first is whole."""
    original = checkpoints.Checkpoints.save

    def save(self, *args, **options):
        self.settle()
        if self.latest_step() is not None:
            file.touch()
            wait()
        original(self, *args, **options)

    checkpoints.Checkpoints.save = save


MOMENTS = {
    "start": lambda file: change(phases, "resolve", wait, file),
    "warming": lambda file: change(feed.Feed, "fetch", wait, file),
    "compiling": compiling,
    # One batch is ahead, and is fetched before the first step.
    "data": lambda file: change(feed.Feed, "fetch", wait, file, STEP + 2),
    "evaluating": lambda f: change(evaluation, "values_over_split", compute, f),
    "sampling": lambda file: change(loop.Runner, "samples", compute, file),
    "saving": saving,
    "writing": lambda file: half(np, "savez_compressed", file),
    "reporting": lambda file: half(Path, "write_text", file),
    "drawing": lambda file: change(sampling, "image_keys", compute, file),
}

if __name__ == "__main__":
    # As in a terminal; under nohup, or a shell's &, they are ignored.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    moment, file, *words = sys.argv[1:]
    MOMENTS[moment](Path(file))
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
