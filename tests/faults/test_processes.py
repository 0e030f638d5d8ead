"""Two processes of one run: what becomes of one when the other is lost."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import runs

from genjax.train import checkpoints, cluster

HEARTBEAT = 8  # Seconds, for the 60 that runs have.
PROGRAM = f"""
import runpy, sys
from genjax.train import cluster
cluster.HEARTBEAT = {HEARTBEAT}
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def pair():
    """Starts two processes; at the end none is left."""
    started = []

    def start(workdir: Path, *fields: dict) -> list[subprocess.Popen]:
        started.extend(start_pair(workdir, *fields))
        return started[-2:]

    yield start
    for process in started:
        process.kill()


def start_pair(workdir: Path, *fields: dict) -> list[subprocess.Popen]:
    """Two processes, each with fields of its own if there are any."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    common = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    env = {**os.environ, "PYTHONPATH": str(runs.ROOT)}
    started = []
    for i in range(2):
        words = runs.words(
            workdir,
            **{"num_steps": 100_000, "checkpoint__every": 20},
            **(fields[i] if fields else {}),
        )[1:]
        words = [sys.executable, "-c", PROGRAM, *words, *common, f"--process_id={i}"]
        started.append(runs.start(words, env=env))
    return started


def ends(process: subprocess.Popen, timeout: float) -> tuple[int, str]:
    try:
        _, said = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, said


def wait_for_checkpoints(workdir: Path, processes: list[subprocess.Popen]) -> None:
    """Until one is committed that was not there before."""
    before = runs.saved(workdir)[-1:]
    runs.wait_for(lambda: runs.saved(workdir)[-1:] > before, processes[0])


def check_whole(workdir: Path) -> int:
    """Every committed checkpoint can be read. The last one's step."""
    for step in runs.saved(workdir):
        weights = checkpoints.load_weights(workdir, step)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(weights.averaged()))
    return runs.saved(workdir)[-1]


def test_a_lost_process_takes_the_other_down_and_the_run_goes_on(tmp_path, pair):
    """Killed, stopped and stopped by hand, one pair after the other."""
    workdir = tmp_path / "run"
    first, second = processes = pair(workdir)
    wait_for_checkpoints(workdir, processes)
    second.kill()
    code, said = ends(first, 60 + HEARTBEAT)
    assert code not in (0, 75), said[-3000:]
    ends(second, 10)
    last = check_whole(workdir)

    first, second = processes = pair(workdir)
    wait_for_checkpoints(workdir, processes)
    first.send_signal(signal.SIGSTOP)
    code, _ = ends(second, 60 + HEARTBEAT)
    assert code not in (0, 75)
    first.kill()
    _, said = ends(first, 10)
    assert f"from step {last}" in said
    last = check_whole(workdir)

    # Both have met, and nothing is restored or compiled.
    config = workdir / "config.json"
    before = config.stat().st_mtime_ns
    first, second = processes = pair(workdir)
    runs.wait_for(lambda: config.stat().st_mtime_ns != before, first)
    second.send_signal(signal.SIGINT)
    found = [ends(process, 120) for process in processes]
    assert [code for code, _ in found] == [75, 75], found
    assert f"from step {last}" in found[0][1]
    assert check_whole(workdir) == runs.logged(workdir)[-1]["step"]
    assert last < check_whole(workdir) <= last + 3


def test_an_error_of_one_process_ends_the_other(tmp_path, pair):
    """The second cannot read its data, the first would wait for it in a collective."""
    bad = {"data__name": "folder:/nowhere"}
    first, second = pair(tmp_path / "run", {}, bad)
    since = time.monotonic()
    code, said = ends(second, 60)
    assert code == 1 and "error: " in said and "/nowhere" in said
    code, said = ends(first, 60 + HEARTBEAT)
    assert code not in (0, 75), said[-3000:]
    assert time.monotonic() - since < 60 + HEARTBEAT + cluster.LINGER
