"""One device against eight virtual ones, in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import recipes
from jax.sharding import PartitionSpec

from genjax.config import ConfigError, base_config
from genjax.train import evaluation, loop, sharding

ROOT = Path(__file__).parents[2]
COUNT_FLAG = "--xla_force_host_platform_device_count"
RUN = """
import json, sys
import jax
from configs.ddpm_digits import get_config
from genjax.train import checkpoints, loop, phases, sampling
from genjax import methods

workdir, fsdp = sys.argv[1], int(sys.argv[2])
config = get_config("tiny")
config.num_steps, config.log_every, config.sample_every = 4, 1, 0
config.optimizers.denoiser.decay_steps = 4
config.mesh.fsdp = fsdp
loop.train(config, workdir)
(phase,) = phases.build(config)
manager = checkpoints.Checkpoints(workdir, config.checkpoint)
state = manager.restore(4, phases.abstract_state(phase))
leaf = state.params["denoiser"]["mid_res_0"]["conv_in"]["kernel"]
moment = state.opt_state["denoiser"][0].mu["denoiser"]["mid_res_0"]["conv_in"]["kernel"]
weights = checkpoints.load_weights(workdir, mesh=phase.mesh)
draw = sampling.make_draw(phase.method, phase.mesh, 8)
cond = sampling.make_cond(phase.method, phase.config, 5)
images = draw(weights.averaged(), {}, seed=0, num=5, cond=cond)
print(json.dumps({
    "devices": jax.device_count(),
    "shape": leaf.shape,
    "shards": [s.data.shape for s in leaf.addressable_shards],
    "moments": [s.data.shape for s in moment.addressable_shards],
    "images": images.tolist(),
}))
"""


def python(devices: int, *words: object) -> str:
    """What `python <words>` prints where there are so many devices."""
    flags = f"{os.environ['XLA_FLAGS']} {COUNT_FLAG}={devices}"
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run(workdir: Path, devices: int, fsdp: int) -> tuple[list[float], dict]:
    printed = python(devices, "-c", RUN, workdir, fsdp)
    lines = [
        json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()
    ]
    return [x["denoiser/loss"] for x in lines], json.loads(printed)


def test_eight_devices_train_and_draw_as_one_does(tmp_path):
    """Float sums in another order: equal to about 1e-6 a step, and uint8 to a level."""
    one, alone = run(tmp_path / "one", 1, 1)
    eight, split = run(tmp_path / "eight", 8, 4)  # Two copies, each over four.
    assert len(one) == 4
    np.testing.assert_allclose(eight, one, rtol=1e-5)
    difference = np.subtract(split["images"], alone["images"])
    assert np.abs(difference).max() <= 1
    # Under fsdp=4 each device really holds a quarter of weights and moments.
    size = np.prod(split["shape"])
    for name in ("shards", "moments"):
        assert {np.prod(shape) for shape in split[name]} == {size // 4}
    assert {np.prod(shape) for shape in alone["shards"]} == {size}


def test_evaluation_and_samples_on_eight_devices(tmp_path):
    """12 at a time become 16; 100 = 6 * 16 + 4, and the 4 do not go round."""
    config = recipes.get("vae_digits")
    config.sample_every = 0
    loop.train(config, tmp_path)
    workdir = f"--workdir={tmp_path}"
    python(8, ROOT / "evaluate.py", workdir, "--num=100", "--batch_size=12")
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert report["results"]["vae/loss"]["examples"] == 96
    python(8, ROOT / "sample.py", workdir, f"--out={tmp_path / 'out'}", "--num=3")
    with np.load(tmp_path / "out" / "samples.npz") as file:
        assert file["images"].shape == (3, 8, 8, 1)


def test_the_first_rule_that_matches_decides():
    config = base_config()
    mesh = sharding.make_mesh(config)
    state = {"a": {"kernel": np.zeros((3, 8)), "bias": np.zeros(8)}}
    rules = (("bias", (None,)), ("kernel", ("fsdp", None)))
    places = sharding.state_shardings(state, mesh, rules)
    assert places["a"]["kernel"].spec == PartitionSpec("fsdp", None)
    assert places["a"]["bias"].spec == PartitionSpec(None)
    with pytest.raises(ConfigError, match="does not fit"):
        sharding.state_shardings(state, mesh, (("bias", ("fsdp", "data")),))


def test_an_evaluation_needs_an_example_for_each_device():
    mesh = sharding.make_mesh(base_config())
    evaluation.check_size(mesh.size, mesh)
    with pytest.raises(ConfigError, match="an evaluation needs an example"):
        evaluation.check_size(mesh.size - 1, mesh)


def test_the_batch_must_divide():
    config = base_config()
    config.data.batch_size, config.accumulate = 10, 4
    with pytest.raises(ConfigError, match="8 and 12"):
        sharding.check_batch(config, sharding.make_mesh(config))
