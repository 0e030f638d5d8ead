"""Runs that go on: to the bit on the same devices, to float sums on others."""

import json
import math
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import recipes
from runs import arrays, different, finish, logged, saved

from genjax.config import ConfigDict
from genjax.train import checkpoints, evaluation, loop, phases

LENGTH = 6  # Steps of a run, of which the learning rate rises for four.


def make(name: str, folder: Path) -> ConfigDict:
    """A tiny recipe in the middle of everything: accumulation, warm-up, averages."""
    config = recipes.without_files(recipes.get(name), folder)
    config.update(num_steps=LENGTH, accumulate=2, log_every=1)
    config.update(sample_every=0, eval_every=0, eval_samples=0)
    config.checkpoint.update(best_metric="", every=1, keep=LENGTH)
    for optimizer in config.optimizers.values():
        optimizer.update(warmup_steps=4, schedule="cosine", decay_steps=40)
    return config


def measured(workdir: Path) -> dict[int, Mapping[str, float]]:
    """{step: what was logged last of it}, but for what the clock says."""
    clock = ("time", "images_per_second")
    return {
        row["step"]: {k: v for k, v in row.items() if k not in clock}
        for row in logged(workdir)
    }


def forget(workdir: Path, after: int) -> None:
    """Leaves what a run that was killed right after the step has on disk."""
    for step in saved(workdir):
        if step > after:
            shutil.rmtree(workdir / "checkpoints" / str(step))


def check_equal(workdir: Path, other: Path) -> None:
    """Every array of the last checkpoint to the bit, every logged number, the data."""
    assert saved(workdir)[-1] == saved(other)[-1]
    assert not different(arrays(workdir), arrays(other))
    assert measured(workdir) == measured(other)


FAMILIES = {
    "fvbn_digits": {},  # Autoregressive.
    "vae_digits": {"ema.networks": ("encoder", "decoder")},
    "vqvae_digits": {"model.restart": 0.9},  # Nearly all codes start anew.
    "glow_moons": {},  # A flow, whose first batch decides the initial weights.
    "rbm_digits": {},  # Energies: persistent chains,
    "igebm_rings": {},  # a replay buffer,
    "ncsn_grid": {},  # a score with an average.
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_run_goes_on_to_the_bit(name, tmp_path):
    """Six steps are three and three, whatever of the state the method keeps."""
    config = make(name, tmp_path)
    config.update_from_flattened_dict(FAMILIES[name])
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert loop.train(config, straight)
    shutil.copytree(straight, killed)
    forget(killed, after=3)
    assert loop.train(config, killed)
    check_equal(killed, straight)
    # The state is not such that nothing could have been lost.
    assert different(arrays(straight, 3), arrays(straight, 6))


def test_phases_go_on_to_the_bit(tmp_path):
    """At the first one's very end, and within the second, whose codes are frozen."""
    config = make("vq_prior_digits", tmp_path)
    config.num_steps = 3
    config.phases = tuple({**phase, "num_steps": 3} for phase in config.phases)
    straight = tmp_path / "straight"
    assert loop.train(config, straight)
    for after in (3, 4):
        killed = tmp_path / str(after)
        shutil.copytree(straight, killed)
        forget(killed, after)
        assert loop.train(config, killed)
        check_equal(killed, straight)


def test_a_run_is_what_it_says_after_three_stops(tmp_path, monkeypatch):
    """Five critic steps of two micro-batches each, in the midst of its warm-up.

    Between two updates of the critic, or two micro-batches, nothing can be saved: they
    are one step, whose end a signal waits for.
    """
    config = make("wgan_gp_ring", tmp_path)
    config.optimizers.generator.learning_rate = 0.8
    assert loop.train(config, tmp_path / "straight")
    original = loop.StopRequest.seen

    def seen(self, step):
        if step in (1, 3, 4):
            signal.raise_signal(signal.SIGTERM)
        return original(self, step)

    monkeypatch.setattr(loop.StopRequest, "seen", seen)
    stopped = tmp_path / "stopped"
    for last in (1, 3, 4, LENGTH):
        assert loop.train(config, stopped) == (last == LENGTH)
        found = arrays(stopped)
        assert saved(stopped)[-1] == last == found["['training']['step']"]
        for player, steps in {"critic": 5, "generator": 1}.items():
            counts = [
                value
                for path, value in found.items()
                if f"['{player}']" in path and path.endswith("['count']")
            ]
            assert len(counts) == 2 and set(map(int, counts)) == {last * steps}
        rate = 0.2 * min(last, 4)  # From 0 to 0.8 over four updates, then half a
        rate *= (1 + math.cos(math.pi * max(last - 4, 0) / 36)) / 2  # cosine of 36.
        row = measured(stopped)[last]
        assert row["generator/learning_rate"] == pytest.approx(rate, rel=1e-6)
    check_equal(stopped, tmp_path / "straight")


FIXED = """
import json, sys
from configs.vae_digits import get_config
from runs import arrays
from test_resume import loss_of, spread
from genjax.train import loop

workdir, out, num_steps, fsdp, dtype = sys.argv[1:]
config = spread(int(num_steps), int(fsdp), dtype)
before = loss_of(config, workdir)
assert loop.train(config, workdir)
json.dump([before, loss_of(config, workdir)], open(out, "w"))
"""


def spread(num_steps: int, fsdp: int, dtype: str) -> ConfigDict:
    """A recipe whose schedule does not depend on its length."""
    config = recipes.get("vae_digits")
    config.update(num_steps=num_steps, log_every=1, sample_every=0, eval_every=0)
    config.update(dtype=dtype)
    config.mesh.fsdp = fsdp
    config.ema.networks = ("decoder",)
    config.optimizers.vae.schedule = "constant"
    return config


def loss_of(config: ConfigDict, workdir: str | Path) -> tuple[list, float] | None:
    """The mesh, and the loss of the last checkpoint on eight examples."""
    if not saved(Path(workdir)):
        return None
    (phase,) = phases.build(config)
    kept = checkpoints.Checkpoints(workdir, config.checkpoint)
    state = kept.restore(kept.latest_step(), phases.abstract_state(phase))
    kept.close()
    values = evaluation.values_over_split(
        evaluation.make_losses(phase.method, phase.mesh),
        {**state.params, **state.ema_params},
        state.model_state,
        phase.dataset.test,
        mesh=phase.mesh,
        batch_size=8,
        num_examples=8,
        seed=0,
    )
    loss = evaluation.summary(*values["vae/loss"])["value"]
    return list(phase.mesh.shape.values()), loss


def test_a_run_goes_on_with_other_devices_another_mesh_and_dtype(tmp_path):
    """Eight, four, one and eight again: to float sums, bfloat16 to its eight bits."""
    workdir, told = tmp_path / "run", []
    script = tmp_path / "go_on.py"
    script.write_text(FIXED)
    root = Path(__file__).parents[2]
    path = os.pathsep.join(str(root / p) for p in ("", "tests", "tests/faults"))
    for devices, num_steps, fsdp, dtype in (
        (8, 2, 4, "float32"),
        (4, 4, 2, "float32"),
        (1, 6, 1, "bfloat16"),
        (8, 8, 1, "float32"),
    ):
        if devices == 1:  # As this process has.
            config = spread(num_steps, fsdp, dtype)
            before = loss_of(config, workdir)
            assert loop.train(config, workdir)
            told.append((before, loss_of(config, workdir)))
            continue
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count"
        out = tmp_path / f"{num_steps}.json"
        code, said = finish(
            [sys.executable, script, workdir, out, str(num_steps), str(fsdp), dtype],
            env={**os.environ, "XLA_FLAGS": f"{flags}={devices}", "PYTHONPATH": path},
        )
        assert code == 0, said[-3000:]
        told.append(json.loads(out.read_text()))
    meshes = [list(after[0]) for _, after in told]
    assert meshes == [[2, 4], [2, 2], [1, 1], [8, 1]]
    exact, half = 1e-5, 2e-2
    for (_, (_, old)), ((_, new), _), error in zip(
        told[:-1], told[1:], (exact, half, half), strict=True
    ):
        assert new == pytest.approx(old, rel=error)
    assert [row["step"] for row in logged(workdir)] == list(range(1, 9))
    changed = [
        json.loads(line)["config"]
        for line in (workdir / "changes.jsonl").read_text().splitlines()
    ]
    assert [sorted(fields) for fields in changed] == [
        ["mesh.fsdp", "num_steps"],
        ["dtype", "mesh.fsdp", "num_steps"],
        ["dtype", "num_steps"],
    ]
