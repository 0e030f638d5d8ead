"""How time and memory of training and sampling grow with images, pixels and chips.

python -m benchmarks.growth [--methods vae ddpm ...] [--seconds=20] [--out=growth.json]

For one method of every family, on the digits enlarged to any side: the trainer's step
and `method.sample`, jitted as the trainer does, are timed in turns over the sizes, and
their memory is the compiler's (arguments, temporaries and results of their own on one
device; XLA says it on a CPU too). Work is the FLOP of matrix products and convolutions
in the program as it is written, with every turn of a loop of known length. An exponent
is the slope of log y over log x by least squares, with its standard error; "last" is
that between the two largest sizes, where fixed costs hide least.

Against chips the batch as a whole stays the same and nothing runs: memory and work are
those of one of 1, 2, 4 and 8 virtual devices, and work is what XLA counts in its
program, all operations, with a loop's body once.

In images 1 is linear: what is above by more than two standard errors, or lastly above
LIMIT, is marked "worse". In the side 2 is linear in pixels. In chips -1 is ideal; what
every chip has a copy of, weights and optimiser and their updates, makes it more.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from ml_collections import ConfigDict
from scipy import stats

from benchmarks import steps, unets
from genjax.train import phases, runtime, sampling, sharding, topology

LIMIT = 1.1  # Of a slope between two sizes, whose times are known to a few per cent.


@dataclass(frozen=True)
class Entry:
    """A method and the sizes that show its growth within seconds.

    Attributes:
        recipe: In configs/.
        batches: Images in a step and in a batch of samples; of the last many chips
            make a share each.
        side: Of these images.
        sides: Of images, where they grow.
        batch: So many images of these.
    """

    recipe: str
    batches: tuple[int, ...] = (32, 64, 128, 256)
    side: int = 8
    sides: tuple[int, ...] = (8, 16, 32)
    batch: int = 32


METHODS = {
    "vae": Entry("vae_digits", batches=(512, 1024, 2048, 4096), batch=512),
    "dcgan": Entry("dcgan_digits", batches=(128, 256, 512, 1024), sides=(16, 32, 64)),
    "gated_pixelcnn": Entry("gated_pixelcnn_digits"),
    "image_transformer": Entry("image_transformer_digits", batch=8),
    "glow": Entry("glow_digits"),
    "igebm": Entry("igebm_digits", batch=16),
    "ddpm": Entry("ddpm_digits", batches=(16, 32, 64, 128), batch=8),
}


@dataclass(frozen=True)
class Growth:
    """How y grows with x.

    Attributes:
        method: Of METHODS.
        task: "train step" or "sampling".
        of: "time", "memory" or "work".
        against: "images", "side" or "chips".
        x: Sizes.
        y: Seconds, bytes or FLOP.
        exponent: Least squares of log y over log x.
        standard_error: Of the exponent.
        last: Exponent between the last two sizes.
    """

    method: str
    task: str
    of: str
    against: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    exponent: float
    standard_error: float
    last: float

    @property
    def worse(self) -> bool:
        """Whether it grows faster than the number of images."""
        if self.against != "images":
            return False
        surely = self.exponent - 2 * self.standard_error
        return surely > 1 + 1e-6 or self.last > LIMIT


def fit(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """The exponent of y in x, its standard error, and that of the last two."""
    log_x, log_y = np.log(x), np.log(y)
    line = stats.linregress(log_x, log_y)
    last = (log_y[-1] - log_y[-2]) / (log_x[-1] - log_x[-2])
    return float(line.slope), float(line.stderr), float(last)


def load(entry: Entry, variant: str) -> ConfigDict:
    """The config of the entry's recipe; the variant is "" or ":tiny"."""
    return steps.recipe(f"{steps.ROOT}/configs/{entry.recipe}.py{variant}")


def sized(config: ConfigDict, batch: int, side: int) -> ConfigDict:
    """A copy that trains on so many digits of that side at once."""
    config = config.copy_and_resolve_references()
    config.data.name, config.data.image_size = "digits", (side, side)
    config.data.batch_size = batch
    return config


def train_and_sample(config: ConfigDict) -> dict[str, tuple[Callable, Any, Any]]:
    """{task: (a call that does it once on one device, its program, compiled too)}."""
    step = steps.TrainStep(config, jax.devices()[:1])
    size, method = step.phase.config.data.batch_size, step.phase.method
    batch = {k: x[0] for k, x in step.batches.items()}
    state = jax.tree.map(lambda x: x.copy(), step.state)  # The step gives its own away.
    keys = sampling.image_keys(0, size)
    args = state.params, state.model_state, keys, {k: batch[k] for k in method.cond}
    traced = sampling.jit_sample(method, step.phase.mesh).trace(*args)
    sample = traced.lower().compile()
    return {
        "train step": (step, step.traced, step.compiled),
        "sampling": (lambda: jax.block_until_ready(sample(*args)), traced, sample),
    }


def against(
    name: str, key: str, x: Sequence[int], configs: list[ConfigDict], seconds: float
) -> list[Growth]:
    """Time, memory and work of a method's two tasks.

    Args:
        name: Of the method.
        key: What x is.
        x: Sizes.
        configs: One for each.
        seconds: Of timing each task.
    """
    made = [train_and_sample(config) for config in configs]
    found = []
    for task in made[0]:
        calls, traced, compiled = zip(*(each[task] for each in made), strict=True)
        y = {
            "time": steps.medians(calls, seconds),
            "memory": [steps.peak_bytes(program) for program in compiled],
            "work": [topology.count_flops(program.jaxpr.jaxpr) for program in traced],
        }
        for of, values in y.items():
            found.append(
                Growth(name, task, of, key, tuple(x), tuple(values), *fit(x, values))
            )
    return found


def on_chips(name: str, config: ConfigDict, chips: Sequence[int]) -> list[Growth]:
    """Memory and work of one of so many devices, which this process must have."""
    y: dict[tuple[str, str], list[float]] = {}
    for num in chips:
        phase = phases.build(config, jax.devices()[:num])[0]
        state, batches = phases.abstract_state(phase), phases.abstract_batch(phase)
        whole = sharding.replicated(phase.mesh)
        key = shaped(jax.eval_shape(jax.random.key, 0), whole)
        train = phases.jit_train_step(phase, state).lower(state, batches, key)
        place = sharding.split(phase.mesh, 0)
        size = config.data.batch_size
        keys = shaped(jax.eval_shape(lambda: sampling.image_keys(0, size)), place)
        cond = {
            k: jax.ShapeDtypeStruct(
                batches[k].shape[1:], batches[k].dtype, sharding=place
            )
            for k in phase.method.cond
        }
        sample = sampling.jit_sample(phase.method, phase.mesh)
        sample = sample.lower(state.params, state.model_state, keys, cond)
        for task, lowered in (("train step", train), ("sampling", sample)):
            compiled = lowered.compile()
            work = compiled.cost_analysis()["flops"]
            y.setdefault((task, "memory"), []).append(steps.peak_bytes(compiled))
            y.setdefault((task, "work"), []).append(work)
    return [
        Growth(name, *key, "chips", tuple(chips), tuple(values), *fit(chips, values))
        for key, values in y.items()
    ]


def shaped(x: jax.ShapeDtypeStruct, place: jax.sharding.Sharding) -> Array:
    """The shape, to lie there."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)


def measure(name: str, entry: Entry, seconds: float, variant: str) -> list[Growth]:
    """Everything of a method on one device."""
    config = load(entry, variant)
    in_images = [sized(config, batch, entry.side) for batch in entry.batches]
    found = against(name, "images", entry.batches, in_images, seconds)
    in_sides = [sized(config, entry.batch, side) for side in entry.sides]
    return found + against(name, "side", entry.sides, in_sides, seconds)


UNITS = {"time": ("s", 1.0), "memory": ("MB", 1e6), "work": ("GFLOP", 1e9)}


def table(found: Sequence[Growth], against: str) -> str:
    """The exponents in Markdown, a row a method and task."""
    found = [growth for growth in found if growth.against == against]
    columns = list(dict.fromkeys(growth.of for growth in found))
    units = ", ".join(UNITS[of][0] for of in columns)
    heads = [f"{of}: exponent, last" for of in columns]
    lines = [f"| method | task | {against} | {' | '.join(heads)} | lastly, {units} |"]
    lines.append("|" + "---|" * (len(columns) + 4))
    cells = {(g.method, g.task, g.of): g for g in found}
    for method, task in dict.fromkeys((g.method, g.task) for g in found):
        row = [cells[method, task, of] for of in columns]
        sizes = f"{row[0].x[0]} to {row[0].x[-1]}"
        ends = ", ".join(f"{g.y[-1] / UNITS[g.of][1]:.3g}" for g in row)
        texts = [method, task, sizes, *map(said, row), ends]
        lines.append(f"| {' | '.join(texts)} |")
    return "\n".join(lines)


def said(growth: Growth) -> str:
    """An exponent in words: 0.93 +- 0.02, 0.97."""
    text = f"{growth.exponent:.2f} +- {growth.standard_error:.2f}, {growth.last:.2f}"
    return f"{text} worse" if growth.worse else text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME")
    add("--seconds", type=float, default=20.0, help="of timing a task (%(default)s)")
    add("--tiny", action="store_true", help="tiny networks, to see that all of it runs")
    add("--chips", nargs="*", type=int, default=[1, 2, 4, 8], help="(%(default)s)")
    add("--out", help="JSON file to write")
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    runtime.start()
    variant = ":tiny" if args.tiny else ""
    if args.worker:
        found = []
        for name in args.methods:
            entry = METHODS[name]
            config = sized(load(entry, variant), entry.batches[-1], entry.side)
            found += on_chips(name, config, args.chips)
        print(json.dumps([asdict(growth) for growth in found]))
        return
    found = []
    for name in args.methods:
        found += measure(name, METHODS[name], args.seconds, variant)
    if args.chips:
        words = ["--worker", *["--tiny"] * args.tiny, "--methods", *args.methods]
        words += ["--chips", *map(str, args.chips)]
        rows = steps.on_virtual_devices(max(args.chips), "benchmarks.growth", *words)
        found += [Growth(**row) for row in rows]
    for key in dict.fromkeys(growth.against for growth in found):
        print(table(found, key), end="\n\n")
    if args.out:
        rows = [asdict(growth) | {"worse": growth.worse} for growth in found]
        report = {
            "growth": rows,
            "sizes": {k: asdict(METHODS[k]) for k in args.methods},
            **unets.describe(),
        }
        Path(args.out).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
