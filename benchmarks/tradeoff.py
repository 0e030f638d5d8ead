"""Trains one method of every family for the same time, and says what each trades.

python benchmarks/tradeoff.py --data=tfds:mnist --minutes=10 [--methods vae ddpm ...]
    [--workdir=runs/tradeoff] [--num_samples=2048] [--resume] [--tiny]

Each method keeps its recipe for the data, but those that would model black and white
model 256 levels. A short run finds how many steps fit into the time; compiling is not
counted. Then are measured: images a second in training and in sampling, how the time an
image takes grows with its pixels, the distance of samples by a classifier of the data,
and bits/dim. Writes <workdir>/tradeoff.md, .json and .png; --resume keeps the methods
that are in the .json. --tiny takes the tiny variants, to see that all of it runs.
"""

import argparse
import importlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # As -m benchmarks.tradeoff has it.

from benchmarks.train_step import trainer_step
from genjax import methods
from genjax.config import ConfigDict
from genjax.metrics.likelihood import in_bits_per_dim
from genjax.train import evaluation, loop, quality, runtime
from genjax.train.tables import Model

LEVELS_256 = {"model.output": {"name": "categorical"}}
LOGISTIC = {"model.decoder": "discretized_logistic", "model.binarize": "none"}


@dataclass(frozen=True)
class Entry:
    """A row of the table.

    Attributes:
        name: As papers write it.
        recipe: configs/<recipe>_<data>.py.
        free_form: Whether the Jacobian of its map may have any form: arXiv:1810.01367,
            Table 1. The one column that is not measured.
        published: FID and bits/dim on CIFAR-10.
        changes: To the recipe, {path: value}.
        sampler: The same, of config.sampler.
        shares: The row whose run it takes.
        at_once: Images in a batch of samples, where the budget may be up after one.
        alone: Images in a batch where growth is measured.
    """

    name: str
    recipe: str
    free_form: str
    published: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    sampler: Mapping[str, Any] = field(default_factory=dict)
    shares: str = ""
    at_once: int = 64
    alone: int = 4


ENTRIES = {
    "vae": Entry("VAE", "vae", "yes", "106.37 / <= 4.54 (convolutional)", LOGISTIC),
    "hierarchical_vae": Entry(
        "Hierarchical VAE", "hierarchical_vae", "yes", "", LOGISTIC
    ),
    "vq_prior": Entry("VQ-VAE and prior", "vq_prior", "yes", "- / <= 4.67"),
    "dcgan": Entry("DCGAN", "dcgan", "yes", "37.11 / -", sampler={"num_proposals": 1}),
    "wgan_gp": Entry("WGAN-GP", "wgan_gp", "yes"),
    "pixelcnn": Entry("PixelCNN", "pixelcnn", "no", "- / 3.00 (PixelRNN)", LEVELS_256),
    "gated_pixelcnn": Entry(
        "Gated PixelCNN", "gated_pixelcnn", "no", "65.93 / 3.03", LEVELS_256
    ),
    "realnvp": Entry("RealNVP", "realnvp", "no", "- / 3.49"),
    "glow": Entry("Glow", "glow", "no", "45.99 / 3.35"),
    "ffjord": Entry("FFJORD", "ffjord", "yes", "- / 3.40"),
    "residual_flow": Entry("Residual Flow", "residual_flow", "yes", "46.37 / 3.28"),
    "igebm": Entry("IGEBM", "igebm", "yes", "37.9 / -"),
    "ddpm": Entry(
        "DDPM",
        "ddpm",
        "yes",
        "3.17 / <= 3.75",
        sampler={"name": "ddpm"},
        at_once=8,
        alone=1,
    ),
    "ddim": Entry(
        "DDIM, 50 steps",
        "ddpm",
        "yes",
        sampler={"name": "ddim", "num_steps": 50},
        shares="ddpm",
        at_once=8,
        alone=1,
    ),
}
OTHERS = "ProGAN 15.52, BigGAN 14.73"  # FID on CIFAR-10 of families not here yet.


@dataclass(frozen=True)
class Budget:
    """What a row may cost.

    Attributes:
        minutes: Of training.
        pilot: Steps that find its speed.
        num_samples: For the distance, as many as `sampling_minutes` allow.
        sampling_minutes: Of drawing these, and of the next.
        num_test: Test images for bits/dim.
        sides: Of images, between which growth is measured.
        seconds: Of timing a call, at least one.
    """

    minutes: float
    pilot: int = 30
    num_samples: int = 2048
    sampling_minutes: float = 5.0
    num_test: int = 500
    sides: tuple[int, ...] = (16, 32, 64)
    seconds: float = 2.0


TINY = Budget(0, 2, 16, 1.0, 16, (8, 16, 24), 0.0)
PATIENCE = 60.0  # Seconds of a batch after which there is no other one.


def short(data_name: str) -> str:
    """The name of the data as recipes have it: "mnist" of "tfds:mnist"."""
    return data_name.rpartition(":")[2]


def recipe(entry: Entry, data_name: str, variant: str = "") -> ConfigDict:
    """Its config for the data, which then asks for no picture and no evaluation."""
    module = f"configs.{entry.recipe}_{short(data_name)}"
    try:
        config = importlib.import_module(module).get_config(variant)
    except ModuleNotFoundError:
        sys.exit(f"error: there is no recipe {module}: take other --methods or --data")
    config.data.name = data_name
    config.sample_every = config.eval_every = config.eval_samples = 0
    config.checkpoint.best_metric = ""
    for path, value in entry.changes.items():
        config.unlock()
        config.update_from_flattened_dict({path: value})
    return config


def lasting(config: ConfigDict, steps: list[int]) -> ConfigDict:
    """A copy of so many steps in each phase, with a warm-up of at most a tenth."""

    def shorter(optimizers: Mapping[str, Any], num: int) -> dict[str, Any]:
        least = {"warmup_steps": max(num // 10, 1)}
        return {
            player: {k: min(v, least[k]) if k in least else v for k, v in tx.items()}
            for player, tx in optimizers.items()
        }

    config = config.copy_and_resolve_references()
    config.num_steps, config.checkpoint.every = steps[-1], sum(steps)
    config.optimizers = shorter(config.optimizers.to_dict(), steps[-1])
    phases = []
    for num, phase in zip(steps, config.phases, strict=False):
        phases.append({**phase, "num_steps": num})
        if "optimizers" in phase:
            phases[-1]["optimizers"] = shorter(phase["optimizers"], num)
    config.phases = tuple(phases)
    return config


def logged(workdir: Path, first: int, last: int) -> list[dict[str, float]]:
    """The lines of the run's log after the step `first`, up to the step `last`."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if first < row["step"] <= last]


def train(config: ConfigDict, workdir: Path, budget: Budget) -> dict[str, Any]:
    """Trains for the budget, shared by the phases; how long it took, and how fast.

    A short run is timed first. In both the first line of a phase's log, in whose time
    it compiles, is left out.
    """
    phases, num = max(len(config.phases), 1), budget.pilot
    pilot = lasting(config, [num] * phases)
    pilot.log_every = num // 2
    folder = workdir.with_name(f"{workdir.name}_pilot")
    shutil.rmtree(folder, ignore_errors=True)
    loop.train(pilot, folder)
    steps = []
    for i in range(phases):
        before, after = logged(folder, i * num, (i + 1) * num)
        seconds_a_step = (after["time"] - before["time"]) / (num - num // 2)
        steps.append(max(int(60 * budget.minutes / phases / seconds_a_step), num))
    shutil.rmtree(folder)
    long = lasting(config, steps)
    long.log_every = max(min(steps) // 20, 1)
    loop.train(long, workdir)
    seconds, end = 0.0, 0
    for num in steps:
        rows = logged(workdir, end, end + num)
        spent = rows[-1]["time"] - rows[0]["time"]
        seconds += spent / (rows[-1]["step"] - rows[0]["step"]) * num
        end += num
    return {
        "steps": steps,
        "batch_size": config.data.batch_size,
        "train_minutes": seconds / 60,
        "train_images_per_second": float(
            np.median([row["images_per_second"] for row in rows[1:]])
        ),
    }


def clocked(call: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    """Seconds that a call takes, and what it gives."""
    start = time.perf_counter()
    result = call(*args)
    return time.perf_counter() - start, result


def timed(call: Callable[[], Any], seconds: float) -> float:
    """Median seconds of calls that take so long together, after one to compile."""
    call()
    times: list[float] = []
    while not times or sum(times) < seconds:
        times.append(clocked(call)[0])
    return float(np.median(times))


def paced(
    call: Callable[[int], Any], batch: int, most: int, limit: float
) -> tuple[float, Any, int]:
    """A call for as many examples as take `limit` seconds, at least for a batch.

    Returns:
        Its seconds, what it gives, and for how many examples.
    """
    num = min(batch, most)
    seconds, result = clocked(call, num)  # Compiles, too.
    if seconds < min(limit, PATIENCE):
        again, _ = clocked(call, num)
        num = min(most, max(int(limit / again), 1) * batch)
        seconds, result = clocked(call, num)
    return seconds, result, num


def growth(
    config: ConfigDict, budget: Budget, channels: int, batch: int
) -> dict[str, Any]:
    """Time an image takes at three sizes, and the exponent of its pixels in each."""
    spent: dict[str, list[float]] = {"train": [], "sample": []}
    for side in budget.sides:
        shape = (side, side, channels)
        step, _ = trainer_step(config.copy_and_resolve_references(), shape, batch)
        spent["train"].append(timed(step, budget.seconds) / batch)
        draw = sampling(config, shape, batch)
        spent["sample"].append(timed(draw, budget.seconds) / batch)
    pixels = np.log(np.square(budget.sides))
    exponents = {
        name: float(np.polyfit(pixels, np.log(values), 1)[0])
        for name, values in spent.items()
    }
    return {"sides": budget.sides, "seconds_an_image": spent, "exponents": exponents}


def sampling(config: ConfigDict, shape: tuple[int, ...], num: int) -> Callable[[], Any]:
    """A call that draws so many images of that shape with untrained weights."""
    config = config.copy_and_resolve_references()
    config.data.shape, config.data.num_classes = shape, 10
    method = methods.load(config)
    batch = {
        "image": jnp.zeros((num, *shape), jnp.uint8),
        "label": jnp.zeros(num, jnp.int32),
    }
    params, model_state = jax.jit(method.init)(jax.random.key(0), batch)
    cond = {name: batch[name] for name in method.cond}
    draw = jax.jit(method.sample)
    keys = jax.random.split(jax.random.key(1), num)
    return lambda: jax.block_until_ready(draw(params, model_state, keys, cond))


def measure(model: Model, judge: quality.Quality, budget: Budget) -> dict[str, Any]:
    """Samples by speed and distance, bits/dim, and the number of parameters."""
    method, config = model.method, model.config
    batch, limit = model.batch_size, 60 * budget.sampling_minutes
    seconds, (drawn, _), num = paced(model.samples, batch, budget.num_samples, limit)
    evaluator = evaluation.Evaluator(
        method,
        config.likelihood,
        model.params,
        model.model_state,
        mesh=model.mesh,
        batch_size=model.batch_size,
        seed=0,
    )
    bits, density = None, "no"
    if method.log_likelihood is not None:

        def of_test(num: int) -> Any:
            return evaluator.values(evaluator.likelihood, model.dataset.test, num)

        _, found, _ = paced(of_test, batch, budget.num_test, limit)
        nats = {"nats/nll": evaluation.summary(*found["nats/nll"])}
        entry = in_bits_per_dim(nats, int(np.prod(config.data.shape)))
        bits = entry["bits_per_dim/nll"]
        density = "bound" if method.bound else "yes"
        if "nats/dequantization" in found:
            density = "yes, of dequantised images"
    return {
        "parameters": sum(x.size for x in jax.tree.leaves(model.params)),
        "sample_images_per_second": -(-num // batch) * batch / seconds,
        "sampler": config.sampler.to_dict(),
        "labels": bool(method.cond),
        "distance": judge.distance(drawn),
        "protocol": judge.protocol(num) | {"num_samples": num},
        "density": density,
        "bits_per_dim": bits,
    }


def row(
    key: str, args: argparse.Namespace, budget: Budget, judge: Callable
) -> dict[str, Any]:
    """Everything of one method."""
    entry, variant = ENTRIES[key], "tiny" if args.tiny else ""
    config = recipe(entry, args.data, variant)
    owner = entry.shares or key
    workdir = args.workdir / owner
    trained = workdir / "trained.json"
    if not trained.is_file():
        shutil.rmtree(workdir, ignore_errors=True)  # A run that was interrupted.
        found = train(config, workdir, budget)
        trained.write_text(json.dumps(found))
    sampler, batch_size = dict(entry.sampler), entry.at_once
    if args.tiny:
        sampler, batch_size = {k: v for k, v in sampler.items() if k != "num_steps"}, 16
    sections = {"sampler": sampler}
    model = Model.load(workdir, sections=sections, batch_size=batch_size)
    config.sampler = model.config.sampler
    return {
        "name": entry.name,
        "recipe": f"{entry.recipe}_{short(args.data)}",
        **json.loads(trained.read_text()),
        **measure(model, judge(model), budget),
        "growth": growth(config, budget, model.config.data.shape[-1], entry.alone),
        "free_form_jacobian": entry.free_form,
        "published": entry.published,
    }


def table(rows: Mapping[str, Mapping[str, Any]], minutes: float) -> str:
    """The rows in Markdown, with what they were measured by."""
    protocol = next(iter(rows.values()))["protocol"]
    distance = f"fd_{protocol['network']}"
    lines = [
        "| method | training, images/s | sampling, images/s | parameters | time an "
        "image takes in training and sampling: pixels to the power of | free-form "
        f"Jacobian | density | {distance} (n) | bits/dim | CIFAR-10, published: FID / "
        "bits/dim |",
        "|" + "---|" * 10,
    ]
    for found in rows.values():
        bits, powers = found["bits_per_dim"], found["growth"]["exponents"]
        cells = [
            found["name"] + (" (given the class)" if found["labels"] else ""),
            f"{found['train_images_per_second']:.3g}",
            f"{found['sample_images_per_second']:.3g}",
            f"{found['parameters']:,}",
            f"{powers['train']:.2f}, {powers['sample']:.2f}",
            found["free_form_jacobian"],
            found["density"],
            f"{found['distance']:.3g} ({found['protocol']['num_samples']:,})",
            f"{bits['value']:.3f} +- {bits['standard_error']:.3f}" if bits else "",
            found["published"],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    accuracy = protocol["network_accuracy"]
    lines += [
        "",
        f"{minutes:g} minutes of training each. The distance is by the classifier "
        f"{protocol['network_hash']} ({100 * accuracy:.1f} % of held-out images right) "
        f"to {protocol['reference_num']:,} images of the {protocol['reference_split']} "
        f"split ({protocol['reference_hash']}). Published FIDs of others: {OTHERS}.",
    ]
    return "\n".join(lines)


def plot(rows: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Sample speed against distance; areas are numbers of parameters."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), dpi=110, layout="constrained")
    protocol = next(iter(rows.values()))["protocol"]
    axes = figure.add_subplot(
        xscale="log",
        yscale="log",
        xlabel="samples, images a second",
        ylabel=f"fd_{protocol['network']}, lower is better",
    )
    for found in rows.values():
        x, y = found["sample_images_per_second"], found["distance"]
        axes.scatter(x, y, s=found["parameters"] / 2e3 + 5, alpha=0.5)
        axes.annotate(found["name"], (x, y), textcoords="offset points", xytext=(6, 4))
    axes.margins(0.15)
    axes.grid(alpha=0.3)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", default="tfds:mnist", help="with recipes (%(default)s)")
    add("--minutes", type=float, default=10, help="of training each (%(default)s)")
    add("--methods", nargs="+", choices=ENTRIES, default=list(ENTRIES), metavar="NAME")
    add("--workdir", type=Path, help="(runs/tradeoff_<data>)")
    add("--num_samples", type=int, default=Budget.num_samples, help="(%(default)s)")
    add("--resume", action="store_true", help="keep the methods that are done")
    add("--tiny", action="store_true", help="two steps of tiny networks")
    args = parser.parse_args()
    args.workdir = args.workdir or Path("runs") / f"tradeoff_{short(args.data)}"
    runtime.start()
    args.workdir.mkdir(parents=True, exist_ok=True)
    report = args.workdir / "tradeoff.json"
    if report.is_file() and not args.resume:
        sys.exit(f"error: {report} is there: add --resume, or take another --workdir")
    rows = json.loads(report.read_text())["rows"] if report.is_file() else {}
    budget = TINY if args.tiny else Budget(args.minutes, num_samples=args.num_samples)

    def judge(model: Model) -> quality.Quality:
        network = quality.make_network("cnn", model.dataset, args.data)
        return quality.Quality(network, model.dataset)

    for key in args.methods:
        if key not in rows:
            rows[key] = row(key, args, budget, judge)
            rows = {key: rows[key] for key in ENTRIES if key in rows}
            whole = {
                "minutes": budget.minutes,
                "devices": str(jax.devices()),
                "rows": rows,
            }
            report.write_text(json.dumps(whole, indent=1) + "\n")
    text = table(rows, budget.minutes)
    (args.workdir / "tradeoff.md").write_text(text + "\n")
    plot(rows, args.workdir / "tradeoff.png")
    print(text)


if __name__ == "__main__":
    main()
