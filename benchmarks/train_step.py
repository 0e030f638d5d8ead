"""Times the trainer's step (loss, gradient, Adam) against the same in eager torch.

python -m benchmarks.train_step [--network=35.7M] [--compile] [--out=train_step.json]
python -m benchmarks.train_step --method=dcgan [--batch-sizes 4 64]
python -m benchmarks.train_step --method=all [--batch-sizes 4 64]

By default DDPM's step against diffusers' network; with --method that of the recipe
<method>_mnist against benchmarks/twins.py, on 28 x 28 images, Glow's being made of the
blocks of normflows; "all" takes those recipes in turn. The networks have the
same layers and as many parameters. Calls alternate in one process, which a recipe's
batch size has to itself; the ratio is the median over rounds. Nothing else should run
meanwhile: torch's threads spin while they wait, and lose far more than XLA's when a
core is taken away.
"""

import importlib
import importlib.util
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import twins, unets
from configs import ddpm_cifar
from genjax import methods
from genjax.config import call
from genjax.train import memory, optimizers, phases, runtime
from genjax.train.state import create
from genjax.train.step import make_train_step

LEARNING_RATE = 2e-4


def trainer_step(
    config: ConfigDict, shape: tuple[int, ...], batch_size: int
) -> tuple[Callable[[], None], int]:
    """A call that takes one step of the trainer, state donated; and the parameters.

    Args:
        config: A recipe, whatever its data: the images are random.
        shape: Of an image.
        batch_size: Images an update.
    """
    config.data.name = "digits"  # Needs no files.
    config, _ = phases.resolve(config)
    config.data.shape = shape
    method = methods.load(config)
    made = {
        player.name: call(
            optimizers.make,
            config.optimizers[player.name],
            config.num_steps * player.steps,
            where=f"config.optimizers.{player.name}",
        )
        for player in method.players
    }
    txs, rates = ({name: pair[i] for name, pair in made.items()} for i in (0, 1))
    step = make_train_step(method, txs, rates, config)
    step = jax.jit(step, donate_argnums=0)
    rows = max(player.steps for player in method.players)
    image = np.random.RandomState(0).randint(256, size=(rows, batch_size, *shape))
    image = jnp.asarray(image.astype(np.uint8))
    batches = {"image": image, "label": jnp.zeros((rows, batch_size), jnp.int32)}
    # No average of the weights: the other side keeps none.
    first = jax.tree.map(lambda x: x[0], batches)
    init = jax.jit(lambda key: create(method, txs, (), key, first))
    carry = [init(jax.random.key(0))]
    num_parameters = sum(x.size for x in jax.tree.leaves(carry[0].params))
    heap = memory.Heap()
    heap.keep()  # For torch, in the same process, too.

    def take():
        carry[0], metrics = step(carry[0], batches, jax.random.key(1))
        jax.block_until_ready(metrics)
        heap.check()

    return take, num_parameters


def jax_step(name: str, batch_size: int):
    """Returns a call that takes one step of the trainer on DDPM."""
    config = ddpm_cifar.get_config()
    config.model.network.update(unets.NETWORKS[name], dropout=unets.DROPOUT)
    config.optimizers = dict(denoiser=dict(name="adam", learning_rate=LEARNING_RATE))
    config.ema.networks = ()
    return trainer_step(config, (unets.SIZE, unets.SIZE, 3), batch_size)[0]


def torch_step(name: str, batch_size: int, *, compiled: bool = False):
    """Returns a call that takes one step."""
    import torch

    net = unets.theirs(name)
    optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE)
    x0 = torch.randn(batch_size, 3, unets.SIZE, unets.SIZE)
    forward = torch.compile(net) if compiled else net

    def call():
        t = torch.randint(0, 1000, (batch_size,))
        eps = torch.randn_like(x0)
        loss = torch.mean(torch.square(forward(x0 + eps, t).sample - eps))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()

    return call


def race_recipe(name: str, batch_size: int, rounds: int) -> dict:
    """One row of the report for a recipe and its twin."""
    config = importlib.import_module(f"configs.{name}_mnist").get_config()
    config.ema.networks = ()
    ours, num_ours = trainer_step(config, (28, 28, 1), batch_size)
    theirs, num_theirs = twins.TWINS[name](config, batch_size)
    if num_ours != num_theirs:
        raise ValueError(f"{name}: {num_ours} parameters against {num_theirs}")
    calls = calls_for(max(seconds(ours), seconds(theirs)))

    def repeated(step):
        return lambda: [step() for _ in range(calls)]

    contenders = {"genjax": repeated(ours), "torch, eager": repeated(theirs)}
    results = unets.race(contenders, rounds)
    task = f"{calls} train steps of {name}, {num_ours:,} parameters, batch {batch_size}"
    return {"task": task, "items": batch_size * calls, "results": results}


def seconds(step: Callable[[], None]) -> float:
    """What a step takes, after two that compile and allocate."""
    step(), step()
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def calls_for(seconds: float) -> int:
    """Steps in a timed call: as many as fill half a second, from 1 to 50."""
    return max(1, min(50, round(0.5 / seconds)))


def main() -> None:
    parser = unets.arguments(__doc__)
    methods = ["ddpm", *twins.TWINS, "all"]
    parser.add_argument("--method", choices=methods, default="ddpm")
    args = parser.parse_args()
    if args.method == "ddpm":
        memory.use_one_arena()
        args.network = args.network or ["35.7M"]
        args.batch_sizes = args.batch_sizes or [16]
        unets.compare(args, "train", jax_step, torch_step)
        return
    unets.require_torch()
    names = list(twins.TWINS) if args.method == "all" else [args.method]
    if "glow" in names and importlib.util.find_spec("normflows") is None:
        sys.exit('glow\'s twin needs normflows: pip install -e ".[bench]"')
    runtime.use_all_cores()
    # Each in a process of its own: what a race leaves in the heap slows down the next.
    fresh = ProcessPoolExecutor(
        1, get_context("spawn"), memory.use_one_arena, max_tasks_per_child=1
    )
    with fresh as pool:
        rows = [
            pool.submit(race_recipe, name, batch_size, args.rounds).result()
            for name in names
            for batch_size in args.batch_sizes or [64]
        ]
    unets.report(rows, "images", args.out)


if __name__ == "__main__":
    main()
