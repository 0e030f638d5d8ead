"""Damaged, unfinished and unwritable checkpoints: what is used, and what is said."""

import contextlib
import json
import os
import re
import resource
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipes
import runs

from genjax.config import ConfigDict
from genjax.train import checkpoints, loop, phases, restore, sums
from genjax.train.checkpoints import Checkpoints, DamagedCheckpointError
from genjax.train.state import TrainState


@pytest.fixture(scope="module")
def config() -> ConfigDict:
    config = recipes.get("vae_digits")
    config.update(num_steps=4, sample_every=0, log_every=1, eval_every=2)
    config.optimizers.vae.schedule = "constant"  # As for a run of another length.
    config.checkpoint.update(every=2, keep=2, best_metric="test/vae/loss")
    return config


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory) -> Path:
    """A run with checkpoints of the steps 2 and 4."""
    workdir = tmp_path_factory.mktemp("trained")
    assert loop.train(config, workdir)
    return workdir


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of that run, to be damaged."""
    return shutil.copytree(trained, tmp_path / "run")


def change(path: Path) -> None:
    """Flips a bit of the byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


DAMAGES = {"missing": Path.unlink, "truncated": truncate, "changed": change}


def largest(folder: Path) -> Path:
    """The file that holds most of an item's arrays."""
    return max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)


def resume(config: ConfigDict, workdir: Path) -> tuple[int, dict, TrainState] | None:
    (phase,) = phases.build(config)
    kept = Checkpoints(workdir, config.checkpoint)
    return kept.resume(lambda step, index: restore.resume(kept, step, phase))


def files(folder: Path) -> dict[str, bytes]:
    """Every file and what it holds."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def bits(state: TrainState) -> dict[str, bytes]:
    return {k: np.asarray(x).tobytes() for k, x in sums.named_leaves(state).items()}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_file_is_found_damaged_or_does_not_matter(config, trained, run, damage):
    """Either the step before is used, or what was restored is right to the bit."""
    step, position, state = resume(config, trained)
    expected, original = (step, position, bits(state)), files(run / "checkpoints")
    newest = run / "checkpoints" / "4"
    harmless = []
    for name in sorted(files(newest)):
        DAMAGES[damage](newest / name)
        found, position, state = resume(config, run)
        if found == 4:
            assert (found, position, bits(state)) == expected, name
            harmless.append(name)
            (newest / name).write_bytes((trained / "checkpoints/4" / name).read_bytes())
        else:
            assert found == 2 and not newest.exists(), name
            aside = run / "checkpoints" / "damaged" / "4"
            assert {*files(aside)} >= {*files(trained / "checkpoints/4")} - {name}
            shutil.rmtree(run / "checkpoints")
            shutil.copytree(trained / "checkpoints", run / "checkpoints")
    assert files(run / "checkpoints") == original
    # Shardings come from us, commits are renames, and Orbax merges what a process wrote
    # into files of all; only the large arrays stay where they were.
    spare = r"commit_success.txt|_sharding|array_metadatas|ocdbt.process_0"
    matter = [name for name in harmless if not re.search(spare, name)]
    assert matter == (["_CHECKPOINT_METADATA"] if damage == "changed" else []), harmless
    for item in checkpoints.ARRAYS:
        assert str(largest(newest / item).relative_to(newest)) not in harmless


def test_training_sets_a_damaged_checkpoint_aside_and_ends_as_if_there_were_none(
    config, trained, run, capsys
):
    """A second one of the same step as well, and neither is overwritten."""
    expected = bits(resume(config, trained)[2])
    for place in ("4", "4.2"):
        change(largest(run / "checkpoints" / "4" / "training"))
        damaged = files(run / "checkpoints" / "4")
        assert loop.train(config, run)
        said = capsys.readouterr().err
        assert "the checkpoint of step 4 is damaged: " in said
        assert f"moved to {run}/checkpoints/damaged/{place}; step 2 is used" in said
        assert "Resuming" in said and "from step 2" in said
        assert files(run / "checkpoints" / "damaged" / place) == damaged
        step, _, state = resume(config, run)
        assert step == 4 and bits(state) == expected
    assert sorted(os.listdir(run / "checkpoints" / "damaged")) == ["4", "4.2"]


def test_training_refuses_where_no_checkpoint_is_whole(config, run):
    """It does not begin again silently, now or the next time, and moves nothing."""
    change(largest(run / "checkpoints" / "2" / "weights"))
    truncate(run / "checkpoints" / "4" / "position" / "metadata")
    before = files(run)
    for _ in range(2):
        with pytest.raises(
            DamagedCheckpointError, match=r"step 4 .*\n.* step 2 .*\n.*move .*checkpo"
        ):
            loop.train(config, run)
    assert files(run) == before


def test_an_older_checkpoint_that_would_stop_orbax_is_set_aside(config, run, capsys):
    truncate(run / "checkpoints" / "2" / "metrics" / "metrics")
    config = config.copy_and_resolve_references()
    config.num_steps = 6
    assert loop.train(config, run)
    assert "step 2 is damaged" in capsys.readouterr().err
    assert (run / "checkpoints" / "damaged" / "2").is_dir()
    assert runs.saved(run)[-2:] == [4, 6]


@pytest.mark.parametrize("asked", ["latest", "best", 4])
def test_reading_weights_refuses_and_names_a_whole_one(run, asked):
    for damage in (
        lambda folder: change(largest(folder / "weights")),
        lambda folder: (folder / "config" / "metadata").unlink(),
    ):
        whole = shutil.copytree(run, run.with_name(f"{asked}"), dirs_exist_ok=True)
        step = checkpoints.find_step(whole / "checkpoints", asked)
        damage(whole / "checkpoints" / str(step))
        before, other = files(whole), 6 - step
        with pytest.raises(DamagedCheckpointError) as error:
            checkpoints.load_weights(whole, asked)
        assert f"the checkpoint of step {step} is damaged: " in str(error.value)
        assert f"that of step {other} is whole: --step={other}" in str(error.value)
        assert files(whole) == before
        assert checkpoints.load_weights(whole, other).step == other


def test_no_whole_checkpoint_to_read_is_said(run):
    for step in ("2", "4"):
        change(largest(run / "checkpoints" / step / "weights"))
    with pytest.raises(DamagedCheckpointError, match=r"step 4 .*; no other is whole"):
        checkpoints.load_weights(run)


def test_checkpoints_of_earlier_versions_are_read(config, trained, run):
    """They have no sums, and no folder of that name is listed in them."""
    expected = bits(resume(config, trained)[2])
    folder = run / "checkpoints" / "4"
    shutil.rmtree(folder / "sums")
    with pytest.raises(DamagedCheckpointError, match="sums is missing"):
        checkpoints.read_plains(folder)
    about = json.loads((folder / "_CHECKPOINT_METADATA").read_text())
    del about["item_handlers"]["sums"]
    (folder / "_CHECKPOINT_METADATA").write_text(json.dumps(about))
    step, _, state = resume(config, run)
    assert step == 4 and bits(state) == expected
    assert checkpoints.load_weights(run).step == 4


@pytest.mark.parametrize("sums_are_there", [True, False])
def test_another_model_is_not_damage(config, run, sums_are_there):
    """Nothing is moved, and the error is not that of a damaged one."""
    other = config.copy_and_resolve_references()
    other.model.network.features = (24,)
    if not sums_are_there:
        for step in ("2", "4"):
            path = run / "checkpoints" / step / "_CHECKPOINT_METADATA"
            path.write_text(path.read_text().replace('"sums": ', '"position": '))
            shutil.rmtree(path.with_name("sums"))
    before = files(run)
    with pytest.raises(Exception) as error:
        resume(other, run)
    assert not isinstance(error.value, DamagedCheckpointError)
    assert files(run) == before


def by_hand(x: np.ndarray) -> int:
    """The fingerprint in Python's own whole numbers."""
    width = {1: np.uint8, 2: np.uint16}.get(x.dtype.itemsize, np.uint32)
    total = 0
    for place, word in enumerate(np.ascontiguousarray(x).reshape(-1).view(width)):
        h = (int(word) + place * 0x9E3779B1) % 2**32
        h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
        h = (h ^ h >> 13) * 0xC2B2AE35 % 2**32
        total += h ^ h >> 16
    return total % 2**32


@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", "int32", "uint8", "bool", "float16", "int16"]
)
def test_fingerprints_are_the_hash_that_they_say(dtype):
    values = np.random.default_rng(0).normal(size=(3, 1, 5)) * 100
    x = np.asarray(values.astype(jnp.dtype(dtype)))
    assert sums.of_tree({"a": jnp.asarray(x)}) == {"a": [dtype, [3, 1, 5], by_hand(x)]}
    empty = sums.of_tree({"a": jnp.zeros((0, 2), dtype)})
    assert empty == {"a": [dtype, [0, 2], 0]}


def test_one_bit_anywhere_and_any_exchange_changes_a_fingerprint():
    x = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    seen = {by_hand(x)}
    for place in range(x.size):
        for bit in range(32):
            y = x.copy()
            y.view(np.uint32).reshape(-1)[place] ^= np.uint32(1 << bit)
            seen.add(by_hand(y))
    assert len(seen) == 1 + 32 * x.size
    for y in (x[::-1], x.reshape(6, 4).T, np.roll(x, 1)):
        assert sums.of_tree([jnp.asarray(y)])["0"][2] not in seen


def test_a_leftover_of_the_same_step_does_not_stop_a_save(config, trained, tmp_path):
    """As a killed process leaves it, before the start and after, and half deleted."""
    part = trained / "checkpoints" / "4"
    folder = tmp_path / "checkpoints"
    names = ["2.orbax-checkpoint-tmp", "4.orbax-checkpoint-tmp-17", "deleting/2"]
    for name in names:
        shutil.copytree(part, folder / name)
        largest(folder / name / "weights").unlink()
    assert loop.train(config, tmp_path)
    assert sorted(os.listdir(folder)) == ["2", "4"]
    _, _, state = resume(config, tmp_path)
    assert bits(state) == bits(resume(config, trained)[2])
    for step in ("2", "4"):  # One of them will be deleted again.
        shutil.copytree(part, folder / "deleting" / step)
    keeper = Checkpoints(tmp_path, config.checkpoint)
    save_as(keeper, state, 5)
    keeper.finish()
    shutil.copytree(part, folder / "6.orbax-checkpoint-tmp")
    save_as(keeper, state, 6)
    keeper.finish()
    keeper.close()
    assert sorted(os.listdir(folder))[-2:] == ["5", "6"]


def test_an_interrupted_deletion_leaves_no_half_under_a_steps_name(
    config, tmp_path, monkeypatch
):
    """As if the process were killed when every other file is gone."""
    keeper, state = Checkpoints(tmp_path, config.checkpoint), tiny_state(100)
    for step in (1, 2):
        save_as(keeper, state, step)
    keeper.finish()

    def half(path, *args, **options):
        for file in sorted(x for x in Path(path).rglob("*") if x.is_file())[::2]:
            file.unlink()

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", half)
        save_as(keeper, state, 3)
        keeper.finish()
    assert os.listdir(tmp_path / "checkpoints" / "deleting") == ["1"]
    assert runs.saved(tmp_path) == checkpoints.committed(keeper.folder) == [2, 3]
    save_as(keeper, state, 4)
    keeper.close()
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["3", "4"]


def save_as(keeper: Checkpoints, state: TrainState, step: int) -> None:
    """Saves a state under a step's name."""
    state = state.replace(step=jnp.int32(step))
    keeper.save(state, step, config=ConfigDict(), phase=0, data={"next": step})


def tiny_state(size: int) -> TrainState:
    zero = jnp.int32(0)
    return TrainState(
        apply_fn=None, tx=None, step=zero, bad_steps=zero, skipped=zero, opt_state={},
        params={"net": {"kernel": jax.random.normal(jax.random.key(0), size)}},
        ema_params={}, model_state={},
    )  # fmt: skip


@contextlib.contextmanager
def at_most(size: int) -> Iterator[None]:
    """No file can grow beyond that many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 60, 1000])
def test_what_cannot_be_written_is_tried_again(config, tmp_path, capsys, size):
    """A failed save leaves the last one, and the next is as if nothing had been."""
    keeper, state = Checkpoints(tmp_path, config.checkpoint), tiny_state(10_000)
    save_as(keeper, state, 1)
    keeper.finish()
    before = files(tmp_path)
    capsys.readouterr()
    with at_most(size):
        for step in (2, 3):
            save_as(keeper, state, step)
            keeper.settle()
            words = f"step {step} could not be written: File too large; the last is of"
            said = capsys.readouterr().err
            assert f"{words} step 1. The next one is tried" in said
            assert keeper.latest_step() == 1
            assert {k: v for k, v in files(tmp_path).items() if k in before} == before
        with pytest.raises(checkpoints.CheckpointError, match=r"step 3 .* step 1$"):
            keeper.finish()
    save_as(keeper, state, 4)
    keeper.finish()
    save_as(keeper, state, 5)
    keeper.close()
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["4", "5"]
    checkpoints.read_plains(tmp_path / "checkpoints" / "5")


def test_too_little_room_is_seen_before_the_disk_is_full(
    config, tmp_path, capsys, monkeypatch
):
    keeper, state = Checkpoints(tmp_path, config.checkpoint), tiny_state(10)
    save_as(keeper, state, 1)
    keeper.finish()
    free = shutil.disk_usage(tmp_path)._replace(free=50_000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: free)
        save_as(keeper, state, 2)
    assert "0.1 MB are free; the last is of step 1" in capsys.readouterr().err
    with pytest.raises(checkpoints.CheckpointError, match="No space left on device"):
        keeper.finish()
    save_as(keeper, state, 3)
    keeper.finish()
    keeper.close()


def test_a_run_whose_last_checkpoint_cannot_be_written_fails_and_can_go_on(
    config, trained, tmp_path
):
    """By a real process: it trains to its end, says it once, and exits with 1."""
    run = tmp_path / "run"
    short = config.copy_and_resolve_references()
    short.num_steps = 2
    assert loop.train(short, run)
    before = files(run / "checkpoints" / "2")
    command = runs.words(
        run,
        num_steps=4,
        eval_every=2,
        optimizers__vae__schedule="constant",
        checkpoint__every=2,
        checkpoint__best_metric="test/vae/loss",
    )
    starve = "import os, resource, sys; "
    starve += "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)); "
    starve += "os.execv(sys.argv[1], sys.argv[1:])"
    # Of its own, as what is cut short in the others' would be found there again.
    env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    code, said = runs.finish([sys.executable, "-c", starve, *command], env=env)
    words = "the checkpoint of step 4 could not be written: File too large; the last is"
    assert code == 1 and f"error: {words} of step 2" in said.splitlines()[-1], said
    assert said.count(words) == 2  # When it was, and at the end.
    assert "Failed to write metadata" not in said  # That is what Orbax logs.
    # What was begun of step 4 may lie there still: TensorStore writes on a while.
    assert runs.saved(run) == [2] and files(run / "checkpoints" / "2") == before
    assert runs.logged(run)[-1]["step"] == 4
    assert loop.train(config, run)
    assert not runs.different(runs.arrays(run), runs.arrays(trained))


def test_200_saves_keep_files_threads_disk_and_memory_bounded(config, tmp_path):
    keeper, state = Checkpoints(tmp_path, config.checkpoint), tiny_state(100_000)
    folder = tmp_path / "checkpoints"

    def measure(step: int) -> dict[str, int]:
        keeper.finish()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return {
            "handles": len(os.listdir("/proc/self/fd")),
            "threads": threading.active_count(),
            "folders": len(os.listdir(folder)),
            "bytes": sum(map(len, files(folder).values())),
            "memory": pages * os.sysconf("SC_PAGE_SIZE"),
        }

    measured = {}
    for step in range(1, 201):
        save_as(keeper, state, step)
        if step in (20, 200):
            measured[step] = measure(step)
    keeper.close()
    early, late = measured[20], measured[200]
    assert late["folders"] == early["folders"] == config.checkpoint.keep
    assert late["handles"] <= early["handles"] + 4
    assert late["threads"] <= early["threads"] + 2
    assert late["bytes"] <= 1.1 * early["bytes"]
    # 180 states would be 72 MB, and each is copied before it is written.
    assert late["memory"] <= early["memory"] + 40e6
