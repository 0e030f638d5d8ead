"""Folders that cannot be written, are full, or in use by another run."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import recipes
import runs
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from genjax.config import ConfigError
from genjax.train import lock, loop, writers

UNWRITABLE = Path("/proc/genjax")  # Root cannot write there either.


def tiny(**fields: object):
    config = recipes.get("vae_digits")
    config.update_from_flattened_dict({"num_steps": 2, **runs.FIELDS, **fields})
    return config


def broken(folder: Path, name: str) -> Path:
    """A folder for a run in which something cannot be written."""
    made = folder / "run"
    if name == "unwritable":
        return UNWRITABLE
    if name == "a file":
        made.write_text("")
    elif name == "below a file":
        made.write_text("")
        return made / "run"
    elif name == "a circle":
        made.symlink_to(made)
    elif name == "a pattern":
        return made / "[1]"
    elif name == "a name too long":
        return made / ("x" * 300)
    else:
        made.mkdir()
        (made / name).symlink_to("/proc/1")  # A folder, or a file, to be written.
    return made


@pytest.mark.parametrize(
    "name",
    [
        "unwritable", "a file", "below a file", "a circle", "a name too long",
        "a pattern", "checkpoints", "samples", "tensorboard", "metrics.jsonl",
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_written_is_refused_before_anything(tmp_path, name):
    """Before the config is even looked at: it has no such method."""
    folder = broken(tmp_path, name)
    with pytest.raises(ConfigError, match=r"--workdir=.*run|/proc/genjax") as error:
        loop.train(tiny(method="no.such"), folder)
    assert "no.such" not in str(error.value)
    assert not list(tmp_path.rglob("run.lock"))


def test_the_commands_say_so_in_five_seconds(tmp_path):
    """Of user time, which others on the machine do not lengthen."""
    made = tmp_path / "run"
    code, _ = runs.finish(runs.words(made, num_steps=1))
    assert code == 0
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for words in (
        runs.words(UNWRITABLE),
        [sys.executable, "sample.py", f"--workdir={made}", f"--out={UNWRITABLE}"],
    ):
        code, said = runs.finish(words)
        assert code == 1 and said.count("\n") == 1, said[-3000:]
        assert said.startswith("error: --") and "/proc/genjax" in said
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 10


def test_any_writable_folder_works(tmp_path, monkeypatch):
    """Relative, with blanks and letters of any alphabet, and through a link."""
    monkeypatch.chdir(tmp_path)
    real, link = Path("Läufe от 周一/run (1) #%"), Path("link")
    assert loop.train(tiny(sample_every=2), real)
    link.symlink_to(real)
    assert loop.train(tiny(num_steps=3), link)
    assert runs.saved(real)[-1] == 3
    assert (real / "samples" / "00000002.png").exists()
    assert not (real / "run.lock").exists()


def test_a_second_run_is_told_of_the_first_which_may_be_killed(tmp_path):
    """At once after SIGKILL the next run goes on; what the file says is then stale."""
    folder = tmp_path / "run"
    words = runs.words(folder, num_steps=100_000, checkpoint__every=5)
    first = runs.start(words)
    try:
        runs.wait_for(lambda: runs.saved(folder), first)
        lines = len(runs.logged(folder))
        code, said = runs.finish(words)
        assert code == 1 and f"is in use by process {first.pid} on " in said
        assert socket.gethostname() in said and "for 0 h 0 min" in said
        runs.wait_for(lambda: len(runs.logged(folder)) > lines, first)
    finally:
        first.kill()
    first.communicate()
    assert json.loads((folder / "run.lock").read_text())["process"] == first.pid
    second = runs.start(words)
    try:
        before = runs.saved(folder)[-1]
        runs.wait_for(lambda: runs.saved(folder)[-1] > before, second)
        second.send_signal(signal.SIGTERM)
        _, said = second.communicate(timeout=60)
    finally:
        second.kill()
    assert second.returncode == 75 and "Waiting" not in said
    assert not (folder / "run.lock").exists()


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """The lock of a run on a machine whose kernel this one does not ask."""
    monkeypatch.setattr(lock, "PATIENCE", 1)
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "machine", lambda: "there")
    other = lock.Lock(tmp_path / "run.lock")
    os.close(other.file)  # Which gives the kernel's lock back, but not the file.
    other.file = os.open(tmp_path / "run.lock", os.O_RDWR)
    monkeypatch.setattr(lock, "machine", lambda: "here")
    yield other
    other.release()


def clock(monkeypatch, leap: float):
    """A wall clock that leaps at every look, forth and back."""
    now, random = time.time, np.random.default_rng(0).random
    monkeypatch.setattr(time, "time", lambda: now() + leap * random())


@pytest.mark.parametrize("leap", [0, 1e8, -1e8])
def test_a_living_run_elsewhere_is_believed_whatever_the_clock(
    elsewhere, monkeypatch, leap
):
    clock(monkeypatch, leap)
    with pytest.raises(ConfigError, match=f"in use by process {os.getpid()} on"):
        lock.Lock(elsewhere.path)


def test_a_dead_run_elsewhere_is_taken_over_whatever_the_clock(
    elsewhere, monkeypatch, capsys
):
    clock(monkeypatch, -1e8)
    elsewhere.ended.set()  # It no longer counts, and did not let go.
    elsewhere.beats.join()
    taken = lock.Lock(elsewhere.path)
    assert "Waiting 1 s for a sign of life" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="in use by process"):
        lock.Lock(elsewhere.path)
    taken.release()
    lock.Lock(elsewhere.path).release()


def test_a_lock_that_makes_no_sense_is_nobodys(tmp_path):
    for text in ("", "?", "[]", "{}", '{"since": "x", "count": {}}', "\0" * 300):
        (tmp_path / "run.lock").write_text(text)
        assert lock.holder(lock.read(tmp_path / "run.lock"))
    (tmp_path / "run.lock").write_text("?")
    lock.Lock(tmp_path / "run.lock").release()


def test_a_clock_that_jumps_changes_nothing(tmp_path, monkeypatch):
    """Except while Orbax writes, which measures by it how long that takes."""
    with monkeypatch.context() as patch:
        save = loop.Runner.save

        def saves(*args):
            patch.undo()
            save(*args)

        clock(patch, -1e9)
        monkeypatch.setattr(loop.Runner, "save", saves)
        assert loop.train(tiny(num_steps=4, sample_every=2), tmp_path)
    lines = runs.logged(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert np.ptp([line["time"] for line in lines]) > 1e8
    assert all(line["images_per_second"] > 0 for line in lines)
    assert loop.train(tiny(num_steps=6), tmp_path)
    assert sorted(events(tmp_path)) == [1, 2, 3, 4, 5, 6]


def events(folder: Path) -> set[int]:
    """The steps of whole scalars, as TensorBoard reads its files."""
    found = set()
    for path in (folder / "tensorboard").iterdir():
        data, start = path.read_bytes(), 0
        while start + 12 <= len(data):
            length = int.from_bytes(data[start : start + 8], "little")
            text = data[start + 12 : start + 12 + length]
            start += 16 + length
            if start > len(data):
                break  # The end is lacking, and is waited for.
            event = Event.FromString(text)
            if any(v.HasField("simple_value") for v in event.summary.value):
                found.add(event.step)
    return found


def test_a_disk_that_is_full_for_a_while_costs_what_was_to_be_written(
    tmp_path, monkeypatch, capsys
):
    """From step 3 to 6 no file can grow beyond the half of a line of metrics.jsonl."""
    original, limits = loop.Runner.log, resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "metrics.jsonl"

    def log(self, step, *rest):
        if step == 3:
            size = path.stat().st_size + 50
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        elif step == 7:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        original(self, step, *rest)
        assert path.read_bytes().endswith(b"}\n")

    monkeypatch.setattr(loop.Runner, "log", log)
    monkeypatch.setattr(writers, "FLUSH", 0)
    config = tiny(num_steps=8, sample_every=2, **{"checkpoint.every": 100})
    try:
        assert loop.train(config, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capsys.readouterr().err
    for what, lost in ((writers.LINES, 4), (writers.GRIDS, 2)):
        assert said.count(f"{what} cannot be written") == 1
        assert f"{lost} {what} were lost" in said
    assert said.count(f"{writers.BOARD} cannot be written") == 1
    assert [line["step"] for line in runs.logged(tmp_path)] == [1, 2, 7, 8]
    assert {1, 2, 7, 8} <= events(tmp_path)
    drawn = sorted(file.name for file in (tmp_path / "samples").iterdir())
    assert drawn == ["00000002.png", "00000008.png"]
    for name in drawn:
        assert np.asarray(Image.open(tmp_path / "samples" / name)).size


def test_half_a_line_of_a_killed_run_is_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for rest in ('{"step": 2, "lo', "x" * 10_000, "\0" * 5_000):
        path.write_text('{"step": 1}\n' + rest)
        file = writers.Lines(path)
        file.add('{"step": 2}')
        file.close()
        assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    path.write_text("no end")
    writers.Lines(path).close()
    assert path.read_text() == ""


def test_a_log_that_cannot_be_written_ends_no_run(tmp_path):
    """Neither metrics.jsonl, nor what the terminal or a file shall show."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").symlink_to("/dev/full")
    with open("/dev/full", "w") as full:
        process = subprocess.Popen(
            runs.words(folder, num_steps=3), cwd=runs.ROOT, stdout=full, stderr=full
        )
        assert process.wait(timeout=120) == 0
    assert runs.saved(folder) == [3]
