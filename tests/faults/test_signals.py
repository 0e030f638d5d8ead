"""Signals to real processes, at every moment of a run and of the other commands."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import runs
from moments import STEP

MOMENTS = Path(__file__).parent / "moments.py"
WITHIN = 10  # Seconds that the issue allows, from the signal to the saved end.
# JAX says it of what another test's process was killed in, or is at, writing.
UNSAID = "ignore:Error reading persistent compilation cache:UserWarning"


def start_at(moment: str, folder: Path, words: list[str]):
    """Starts it, and waits until it is there."""
    mark = folder / f"at_{moment}"
    command = [sys.executable, str(MOMENTS), moment, str(mark), *words]
    env = {**os.environ, "PYTHONPATH": str(runs.ROOT), "PYTHONWARNINGS": UNSAID}
    process = runs.start(command, env=env)
    try:
        runs.wait_for(mark.exists, process)
    except BaseException:
        process.kill()
        raise
    return process


def end(process, *numbers: signal.Signals, group: bool = False) -> tuple[int, str]:
    """Sends them one after the other: the exit code, and what was said."""
    since = time.monotonic()
    for number in numbers:
        (os.killpg if group else os.kill)(process.pid, number)
        time.sleep(0.1)
    try:
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert time.monotonic() - since < WITHIN
    assert "Traceback" not in said, said[-3000:]
    return process.returncode, said


def words(workdir: Path, **fields) -> list[str]:
    fields = {"num_steps": 100, "log_every": 2, "checkpoint__every": 1000, **fields}
    return runs.words(workdir, **fields)[1:]


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> tuple[dict, str, Path]:
    """What the loop itself saves at step 3, when nothing stops it.

    The run is interrupted, by two SIGINT, while it saves the step 6.
    """
    folder = tmp_path_factory.mktemp("reference")
    command = words(folder / "run", checkpoint__every=STEP)
    process = start_at("saving", folder, command)
    code, said = end(process, signal.SIGINT, signal.SIGINT)
    assert code == 130 and "the last checkpoint is whole" in said
    assert runs.saved(folder / "run") == [STEP]
    return runs.arrays(folder / "run"), position(folder / "run"), folder / "run"


def position(workdir: Path) -> str:
    """Of the data, as it was saved."""
    return (workdir / "checkpoints" / str(STEP) / "position" / "metadata").read_text()


@pytest.mark.parametrize(
    "moment, numbers, group, fields",
    [
        ("data", [signal.SIGHUP], False, {}),
        ("evaluating", [signal.SIGTERM] * 2, True, {"eval_every": STEP}),
        ("sampling", [signal.SIGINT], False, {"sample_every": STEP}),
    ],
)
def test_a_signal_at_what_lasts_long_saves_at_once(
    tmp_path, reference, moment, numbers, group, fields
):
    """To the bit what a run that went on saved, with its place in the data."""
    workdir = tmp_path / "run"
    process = start_at(moment, tmp_path, words(workdir, **fields))
    code, said = end(process, *numbers, group=group)
    assert code == 75 and "Stopped and saved" in said, said[-3000:]
    assert runs.saved(workdir) == [STEP]
    assert not runs.different(runs.arrays(workdir), reference[0])
    assert position(workdir) == reference[1]
    assert [line["step"] for line in runs.logged(workdir)] == [2, STEP]
    assert not (workdir / "run.lock").exists()


@pytest.mark.parametrize(
    "moment, number",
    [
        ("start", signal.SIGTERM),
        ("warming", signal.SIGINT),
        ("compiling", signal.SIGTERM),
    ],
)
def test_a_signal_before_the_first_step_ends_at_once(tmp_path, moment, number):
    process = start_at(moment, tmp_path, words(tmp_path / "run"))
    code, said = end(process, number)
    assert code == 75 and "Stopped before a step was taken" in said
    assert not (tmp_path / "run" / "checkpoints" / "0").exists()
    assert not runs.saved(tmp_path / "run")


def test_the_other_commands_end_at_once_and_leave_nothing_half(tmp_path, reference):
    """At once within XLA, and in the middle of a file with that file deleted."""
    run, out = reference[2], tmp_path / "out"
    command = ["sample.py", f"--workdir={run}", f"--out={out}", "--num=4"]
    code, said = end(start_at("drawing", tmp_path, command), signal.SIGINT)
    assert code == -signal.SIGINT and not said and not list(out.iterdir())
    code, said = end(start_at("writing", tmp_path, command), signal.SIGTERM)
    assert code == 128 + signal.SIGTERM and not said and not list(out.iterdir())
    command = ["evaluate.py", f"--workdir={run}", "--num=16"]
    process = start_at("reporting", tmp_path, command)
    code, said = end(process, signal.SIGINT)
    assert code == 128 + signal.SIGINT and not said
    assert not list(run.glob("evaluation*"))
