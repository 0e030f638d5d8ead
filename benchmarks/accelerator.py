"""What an accelerator makes of the CIFAR-10 U-Net, beside diffusers' in torch.

python -m benchmarks.accelerator [--out=accelerator.json]
python -m benchmarks.accelerator --network=tiny --batch-sizes 8 --only-ours   # anywhere

Tasks are the trainer's step of configs/ddpm_cifar.py, the same fed by its input
pipeline, and DDIM-50 and ancestral sampling through the method, in bfloat16 (weights in
float32, as the trainer has them) and float32 (of which products may round to tf32 on
both sides). The other side is diffusers' network of the same shape in eager torch and
in torch.compile: channels last, autocast, fused Adam; of its sampling loop, whose steps
are all alike, LOOP_STEPS are timed. Contenders take turns in one process. MFU is the
work of products and convolutions, counted in our program for both sides, over what a
large matrix product of the same dtype reaches. Peak memory is the compiled program's
for ours and the allocator's for torch. A task is left out that
would not end within --minutes if it took as long as the longest before it, of training
or of sampling; the first to sample is thought to take half as long as training.
"""

import contextlib
import functools
import gc
import importlib.util
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from benchmarks import steps, unets
from configs import ddpm_cifar
from genjax.config import ConfigDict
from genjax.train import runtime, sharding
from genjax.train.feed import Feed
from genjax.train.phases import build, start_state
from genjax.train.sampling import image_keys
from genjax.train.topology import count_flops

LEARNING_RATE, TRAIN_STEPS = 2e-4, 1000
CALLS = 20  # Train steps between two looks at the clock.
LOOP_STEPS = 50  # Of diffusers' sampling loop; it takes as many times longer as it has.
CEILING = {"accelerator": 8192, "cpu": 1024}  # Side of the matrices.


@dataclass
class Contender:
    """A way to do a task.

    Attributes:
        call: Does it, and returns once it is done.
        items: Images that a call makes or trains on.
        flops: Of a call.
        memory: () -> bytes at the peak, read after the calls.
    """

    call: Callable[[], object]
    items: float
    flops: float
    memory: Callable[[], float]


def make_config(
    folder: Path, network: str, dtype: str, batch_size: int, **sampler
) -> ConfigDict:
    """The recipe on the folder's images; no average of the weights."""
    config = ddpm_cifar.get_config()
    config.data.update(name=f"folder:{folder}", batch_size=batch_size)
    config.model.network.update(unets.NETWORKS[network], dropout=unets.DROPOUT)
    config.optimizers = dict(denoiser=dict(name="adam", learning_rate=LEARNING_RATE))
    config.dtype, config.ema.networks = dtype, ()
    config.sampler = ConfigDict(sampler or config.sampler)
    return config


def train(config: ConfigDict) -> dict[str, Contender]:
    """The trainer's step on one batch, and on the batches of its pipeline."""
    step = steps.TrainStep(config, jax.devices()[:1])
    feed = Feed(step.phase.batches(), sharding.split(step.phase.mesh, 1))

    def call(fed: bool) -> None:
        for _ in range(CALLS):
            given = next(feed)[0] if fed else step.batches
            step.state, metrics = step.compiled(step.state, given, step.key)
        jax.block_until_ready(metrics)

    return {
        name: Contender(
            functools.partial(call, fed),
            CALLS * step.images,
            CALLS * count_flops(step.traced.jaxpr.jaxpr),
            lambda: steps.peak_bytes(step.compiled),
        )
        for name, fed in (("genjax", False), ("genjax, fed", True))
    }


def draw(config: ConfigDict) -> dict[str, Contender]:
    """One call of the method's sampler, with the weights of a fresh run."""
    (phase,) = build(config, jax.devices()[:1])
    params, num = start_state(phase, None).params, phase.config.data.batch_size
    sample = jax.jit(phase.method.sample)
    keys = image_keys(0, num)
    traced = sample.trace(params, {}, keys, {})
    compiled = traced.lower().compile()
    return {
        "genjax": Contender(
            lambda: jax.block_until_ready(compiled(params, {}, keys, {})),
            num,
            count_flops(traced.jaxpr.jaxpr),
            lambda: steps.peak_bytes(compiled),
        )
    }


class Torch:
    """diffusers' side, on the GPU if torch sees one."""

    def __init__(self, network: str, dtype: str, batch_size: int, compiled: bool):
        import torch

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch._dynamo.reset()
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = getattr(torch, dtype)
        self.size = (batch_size, 3, unets.SIZE, unets.SIZE)
        net = unets.theirs(network).to(self.device, memory_format=torch.channels_last)
        self.net, self.forward = net, torch.compile(net) if compiled else net

    def noise(self):
        """Random images, channels last."""
        import torch

        x = torch.randn(self.size, device=self.device)
        return x.contiguous(memory_format=torch.channels_last)

    def predict(self, x, t):
        """The network in its dtype."""
        import torch

        mixed = self.dtype != torch.float32
        with torch.autocast(self.device, self.dtype, enabled=mixed):
            return self.forward(x, t).sample

    def wait(self) -> None:
        """Until the GPU is idle."""
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()

    def memory(self, call: Callable[[], None], adam=None) -> float:
        """Bytes at the peak of a call, without what other contenders hold."""
        import torch

        if self.device != "cuda":
            return math.nan
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        own = [x for p in self.net.parameters() for x in (p, p.grad) if x is not None]
        own += (
            [x for state in adam.state.values() for x in state.values()] if adam else []
        )
        return torch.cuda.max_memory_allocated() - held + sum(x.nbytes for x in own)

    def train(self, flops: float) -> Contender:
        """The same train step."""
        import torch

        fused = self.device == "cuda"
        adam = torch.optim.Adam(self.net.parameters(), LEARNING_RATE, fused=fused)
        x0 = self.noise()

        def call() -> None:
            for _ in range(CALLS):
                t = torch.randint(0, TRAIN_STEPS, self.size[:1], device=self.device)
                eps = torch.randn_like(x0)
                loss = torch.mean(torch.square(self.predict(x0 + eps, t) - eps))
                adam.zero_grad(set_to_none=True)
                loss.backward()
                adam.step()
            self.wait()

        items = CALLS * self.size[0]
        return Contender(call, items, flops, lambda: self.memory(call, adam))

    def draw(self, scheduler: str, steps: int, flops: float) -> Contender:
        """The loop of diffusers' documentation, LOOP_STEPS of its steps."""
        import diffusers
        import torch

        made = getattr(diffusers, scheduler)(TRAIN_STEPS, beta_schedule="linear")
        made.set_timesteps(steps)
        net, timed = self.net.eval().to(self.dtype), made.timesteps[:LOOP_STEPS]
        x_T, share = self.noise().to(self.dtype), len(timed) / steps
        forward = self.forward if self.forward is not self.net else net

        def call() -> None:
            x = x_T
            with torch.inference_mode():
                for t in timed:
                    x = made.step(forward(x, t).sample, t, x).prev_sample
            self.wait()

        items = self.size[0] * share
        return Contender(call, items, flops * share, lambda: self.memory(call))


def measure_ceiling(dtype: str) -> float:
    """FLOP a second of large matrix products of random numbers, ten between two looks
    at the clock: the median of five such.
    """
    kind = "cpu" if jax.default_backend() == "cpu" else "accelerator"
    side = CEILING[kind]
    a, b = jax.random.normal(jax.random.key(0), (2, side, side), dtype)
    product = jax.jit(jnp.matmul)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        jax.block_until_ready([product(a, b) for _ in range(10)])
        seconds.append((time.perf_counter() - start) / 10)
    return 2 * side**3 / float(np.median(seconds[1:]))


SAMPLERS = {  # Ours, and whose it is in diffusers.
    "DDIM-50": (dict(name="ddim", num_steps=50), "DDIMScheduler"),
    "ancestral-1000": (dict(name="ddpm", num_steps=TRAIN_STEPS), "DDPMScheduler"),
}


def tasks(network: str, folder: Path, batch_sizes: list[int], with_torch: bool):
    """Yields (task, dtype, batch size, rounds, a call that makes its contenders)."""
    first = batch_sizes[0]
    plan = [("train", "bfloat16", first), ("DDIM-50", "bfloat16", first)]
    plan += [("train", "float32", first), ("ancestral-1000", "bfloat16", first)]
    plan += [("train", "bfloat16", size) for size in batch_sizes[1:]]
    plan += [("DDIM-50", "float32", first), ("ancestral-1000", "float32", first)]

    def contenders(task: str, dtype: str, size: int) -> Iterator[tuple[str, Contender]]:
        sampler, scheduler = SAMPLERS.get(task, ({}, None))
        config = make_config(folder, network, dtype, size, **sampler)
        made = draw(config) if scheduler else train(config)
        yield from made.items()
        flops = made["genjax"].flops
        for compiled in (False, True) if with_torch else ():
            name = f"diffusers, {'torch.compile' if compiled else 'eager'}"
            torch = Torch(network, dtype, size, compiled)
            if scheduler:
                yield name, torch.draw(scheduler, sampler["num_steps"], flops)
            else:
                yield name, torch.train(flops)

    for task, dtype, size in plan:
        rounds = 1 if task == "ancestral-1000" else 5
        yield (
            task,
            dtype,
            size,
            rounds,
            functools.partial(contenders, task, dtype, size),
        )


def measure(contenders: Iterator[tuple[str, Contender]], rounds: int, ceiling: float):
    """Races the contenders; {name: images/s, MFU, GiB, and how much faster ours is}."""
    made = dict(contenders)
    found = unets.race({name: c.call for name, c in made.items()}, rounds)
    rows = {}
    for name, result in found.items():
        if "failed" in result:
            rows[name] = result
            continue
        rate = made[name].items / result["seconds"]
        rows[name] = {
            "images_per_second": rate,
            "mfu": made[name].flops / result["seconds"] / ceiling,
            "peak_gib": made[name].memory() / 2**30,
            "speed_of_ours": result["speed_of_ours"]
            * made["genjax"].items
            / made[name].items,
        }
    return rows


@contextlib.contextmanager
def random_images() -> Iterator[Path]:
    """A folder of random pictures as large as CIFAR-10's."""
    with tempfile.TemporaryDirectory() as folder:
        random = np.random.RandomState(0)
        for i in range(1024):
            pixels = random.randint(256, size=(unets.SIZE, unets.SIZE, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(Path(folder, f"{i:04}.png"))
        yield Path(folder)


def main() -> None:
    # Ours and torch share the card, each by what it needs.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    parser = unets.arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=8)
    parser.set_defaults(network=["35.7M"], batch_sizes=[128, 512], rounds=5)
    args = parser.parse_args()
    runtime.use_all_cores()
    # What one program found to be the fastest kernel serves the next.
    jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp())
    installed = all(map(importlib.util.find_spec, ("torch", "diffusers")))
    start, rows = time.monotonic(), []
    longest = {"train": 0.0, "sample": 0.0}
    ceilings = {dtype: measure_ceiling(dtype) for dtype in ("bfloat16", "float32")}
    for dtype, rate in ceilings.items():
        print(f"matrix product, {dtype}: {rate / 1e12:.4g} TFLOP/s", flush=True)
    print("| task | contender | images/s | MFU | peak GiB | ours is faster by |")
    print("|---|---|---|---|---|---|", flush=True)
    with random_images() as folder:
        plan = tasks(
            args.network[0], folder, args.batch_sizes, installed and not args.only_ours
        )
        for task, dtype, size, rounds, contenders in plan:
            title = f"{task}, {dtype}, batch {size}"
            begun, kind = time.monotonic(), "train" if task == "train" else "sample"
            expected = longest[kind] or longest["train"] / 2
            if begun - start + expected > 60 * args.minutes:
                print(f"| {title} | | not run: --minutes={args.minutes:g} |")
                continue
            found = measure(contenders(), min(rounds, args.rounds), ceilings[dtype])
            rows.append({"task": title, "results": found})
            for name, row in found.items():
                print(line(title, name, row), flush=True)
            longest[kind] = max(longest[kind], time.monotonic() - begun)
            gc.collect()
            if args.out:
                about = {"ceilings": ceilings, "rows": rows, **unets.describe()}
                Path(args.out).write_text(json.dumps(about, indent=2))
    print(f"{time.monotonic() - start:.0f} s")


def line(title: str, name: str, row: dict) -> str:
    """Of the table."""
    if "failed" in row:
        return f"| {title} | {name} | {row['failed']} |"
    cells = [f"{row['images_per_second']:,.4g}", f"{100 * row['mfu']:.1f} %"]
    cells += [f"{row['peak_gib']:.2f}", f"{row['speed_of_ours']:.2f}"]
    return "| " + " | ".join([title, name, *cells]) + " |"


if __name__ == "__main__":
    main()
