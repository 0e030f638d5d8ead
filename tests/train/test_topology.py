"""What a step takes: counts against closed forms and torch, programs that compile."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from genjax.config import ConfigError
from genjax.train import topology

ROOT = Path(__file__).parents[2]
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the tpu extra's libtpu"
)


def flops(fn, *shapes):
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return topology.count_flops(jax.make_jaxpr(fn)(*args).jaxpr)


def strided(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (2, 2), "SAME", dimension_numbers=numbers
    )


def test_flops_of_products_and_convolutions():
    assert flops(jnp.dot, (5, 7), (7, 3)) == 2 * 5 * 7 * 3
    assert flops(lambda x: jnp.sin(x) + x, (5, 7)) == 0
    x, kernel = (2, 8, 8, 3), (3, 3, 3, 4)
    forward = 2 * (2 * 4 * 4 * 4) * (3 * 3 * 3)
    assert flops(strided, x, kernel) == forward
    both = jax.grad(lambda *args: strided(*args).sum(), (0, 1))
    assert flops(both, x, kernel) == 3 * forward


def test_flops_of_loops_and_branches():
    def turn(x, _):
        return jnp.tanh(x @ x), None

    loop = 7 * 2 * 4**3
    assert flops(lambda x: lax.scan(turn, x, length=7)[0], (4, 4)) == loop
    grad = jax.grad(lambda x: lax.scan(turn, x, length=7)[0].sum())
    assert flops(grad, (4, 4)) == 3 * loop

    def branch(x):
        return lax.cond(x.sum() > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert flops(branch, (4, 4)) == 2 * 2 * 4**3
    assert flops(jax.checkpoint(lambda x: x @ x), (4, 4)) == 2 * 4**3


def test_flops_of_the_unet_are_those_that_torch_counts():
    pytest.importorskip("diffusers", reason="needs the bench extra")
    torch = pytest.importorskip("torch", reason="needs the bench extra")
    from torch.utils.flop_counter import FlopCounterMode

    from benchmarks import unets

    fields = unets.NETWORKS["1.0M"]
    net = unets.UNet(out_channels=3, attention_resolutions=(16,), **fields)
    x, t = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32), jnp.ones(2)
    key = jax.random.key(0)
    params = jax.eval_shape(lambda x: net.init(key, x, t, train=False), x)
    grad = jax.grad(lambda params, x: net.apply(params, x, t, train=False).sum())
    ours = topology.count_flops(jax.make_jaxpr(grad)(params, x).jaxpr)
    with torch.device("meta"):
        theirs, y = unets.theirs("1.0M"), torch.zeros(2, 3, 32, 32)
        with FlopCounterMode(display=False) as counter:
            theirs(y, torch.ones(2)).sample.sum().backward()
    assert ours == counter.get_total_flops()


COST = """
import importlib, json, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
from configs.ddpm_digits import get_config
from genjax.train import phases, topology

costs = {}
for name, fsdp in [("data", 1), ("fsdp", 4)]:
    config = get_config("tiny")
    config.model.network.features = 16
    config.mesh.fsdp = fsdp
    (phase,) = phases.build(config)
    cost = topology.estimate(phase, topology.CHIPS["v5e"])
    costs[name] = {
        "chips": cost.chips, "state": cost.state, "flops": cost.flops,
        "collectives": {k: [c.count, c.payload] for k, c in cost.collectives.items()},
    }
params = phases.abstract_state(phase).params
costs["params"] = sum(4 * x.size for x in jax.tree.leaves(params))

config = importlib.import_module("configs.wgan_gp_digits").get_config()
config.data.batch_size, config.model.critic_steps = 64, 1
(phase,) = phases.build(config)
state, batch = phases.abstract_state(phase), phases.abstract_batch(phase)
step = phases.jit_train_step(phase, state)
step = step.trace(state, batch, jax.random.key(0))
counted = topology.count_flops(step.jaxpr.jaxpr)
costs["share"] = step.lower().compile().cost_analysis()["flops"] / counted

mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
def total(x):
    def turn(carry, row):
        return carry + jax.lax.psum(row * carry, "data"), None
    return jax.lax.scan(turn, x[0], x)[0]
total = jax.shard_map(total, mesh=mesh, in_specs=P(None, "data"), out_specs=P("data"))
text = jax.jit(total).lower(jnp.ones((5, 80))).compile().as_text()
found = topology.find_collectives(text)
costs["loop"] = {k: [c.count, c.payload, c.sent] for k, c in found.items()}
print(json.dumps(costs))
"""


def run(*words, **env):
    path = os.pathsep.join([str(ROOT), *sys.path])
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": path, **env},
        capture_output=True,
        text=True,
    )


def test_what_eight_devices_exchange():
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    done = run("-c", COST, XLA_FLAGS=flags)
    assert done.returncode == 0, done.stderr[-3000:]
    costs = json.loads(done.stdout)
    # With a copy each, gradients are summed, once, and a few numbers to be logged.
    alone, split, params = costs["data"], costs["fsdp"], costs["params"]
    assert set(alone["collectives"]) == {"all-reduce"}
    assert alone["collectives"]["all-reduce"][1] == pytest.approx(params, rel=0.02)
    assert alone["state"] > 4 * params  # Weights, their average, and Adam's two.
    # Split over four, a quarter each but for what is too small, and it is gathered.
    assert split["state"] == pytest.approx(alone["state"] / 4, rel=0.02)
    # Weights alone: no activations, which would grow with the batch.
    assert set(split["collectives"]) == {"all-gather", "all-reduce"}
    for _, payload in split["collectives"].values():
        assert payload == pytest.approx(params, rel=0.03)
    assert split["flops"] == alone["flops"]
    # A generator's latents are drawn where the examples lie, an eighth on each.
    assert costs["share"] < 0.2
    # Five turns, each of ten floats, that a ring of eight sends 2 * 7 / 8 times.
    assert costs["loop"] == {"all-reduce": [5, 5 * 40, 5 * 40 * 2 * 7 / 8]}


LOOP = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from genjax.train import topology

_, devices = topology.slice_of("v5e:2x4")
mesh = jax.sharding.Mesh(np.array(devices), ("data",))
def total(x):
    def turn(carry, row):
        return jnp.sin(carry + jax.lax.psum(row * carry, "data")), None
    return jax.lax.scan(turn, x[0], x)[0]
spec = P(None, "data")
total = jax.shard_map(total, mesh=mesh, in_specs=spec, out_specs=P("data"))
x = jax.ShapeDtypeStruct((5, 8192), jnp.float32, sharding=NamedSharding(mesh, spec))
lowered = jax.jit(total).trace(x).lower(lowering_platforms=("tpu",))
found = topology.find_collectives(lowered.compile().as_text())
print({k: (c.count, c.payload) for k, c in found.items()})
"""


@needs_libtpu
def test_the_turns_of_a_loop_are_found_in_a_tpus_program():
    """Which says no number of them: it is that of the compared counter."""
    done = run("-c", LOOP)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "{'all-reduce': (5, 20480.0)}"


@needs_libtpu
def test_a_step_compiles_for_a_slice_and_says_what_it_takes():
    recipe = ROOT / "configs" / "vae_digits.py"
    words = [str(ROOT / "train.py"), f"--config={recipe}:tiny"]
    done = run(*words, "--compile_for=v5e:4x4")
    assert done.returncode == 0, done.stderr[-3000:]
    said = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[2:])
    assert "--config.data.batch_size=16" in done.stdout.splitlines()[0]
    assert said["chips"] == "16, mesh {'data': 16, 'fsdp': 1}"
    assert said["batch"] == "16, 1 a chip"
    assert said["collectives"].startswith("all-reduce")
    assert "197 TFLOP/s" in said["assumed"]
    large = "--config.model.network.features=(16000000,)"
    done = run(*words, "--compile_for=v5e:2x4", large)
    assert done.returncode == 1
    assert "does not fit" in done.stderr and "config.mesh.fsdp" in done.stderr


@pytest.mark.parametrize(
    "name, message", [("v5x:2x4", "v5e"), ("v5e", "like v5e:16x16"), ("v5e:8", "like")]
)
def test_what_is_no_slice_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        topology.slice_of(name)
