"""Times the trainer's input against its step: does a step ever wait for data?

python -m benchmarks.input [--threads -1 0 1 2 4] [--seconds 3] [--data mnist ...]
    [--time_steps mnist] [--step_images_per_s cifar10=5000 jpeg=500 png=500]
    [--loops vae_mnist ddpm_digits] [--steps 400] [--out=input.json]

For each set the batches of a recipe, as the trainer makes them: images a second by
number of threads (config.data.num_threads), from memory and decoded each time, beside
those that the recipe's step takes. --time_steps says of which recipes the step is timed
here, with random images; --step_images_per_s gives what was measured elsewhere. "jpeg"
and "png" are folders of photo-like images that are made here, half of them of the
model's 256 x 256 and half of 320 x 280, to be resized. --loops trains recipes for some
steps and says which part of the time the loop waited for its next batch.

Images a second of one core are those of a second of processor time, whatever else runs.
"""

import argparse
import contextlib
import importlib
import json
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
from PIL import Image

from benchmarks.train_step import trainer_step
from benchmarks.unets import describe
from genjax.config import ConfigDict, ConfigError
from genjax.data import sources
from genjax.train import loop, phases, runtime

Row = dict[str, Any]
HEAD = "| data | kept | threads | images/s | images/s of a core | first batch after, s "
HEAD += "| its step takes, images/s | input is faster by |"
SIDE = 256  # Of a folder's images.


@dataclass(frozen=True)
class Source:
    """A data set, and who reads it.

    Attributes:
        recipe: In configs/.
        shape: Of an image.
        batch_size: Of the pipeline; None is the recipe's.
        batch_on_cpu: Of the step, where a CPU has to take it; None is the recipe's.
        suffix: Of files that are made, where it is a folder.
    """

    recipe: str
    shape: tuple[int, int, int]
    batch_size: int | None = None
    batch_on_cpu: int | None = None
    suffix: str = ""


SOURCES = {
    "mnist": Source("vae_mnist", (28, 28, 1)),
    "cifar10": Source("ddpm_cifar", (32, 32, 3), batch_on_cpu=16),
    "jpeg": Source("ddpm_folder", (SIDE, SIDE, 3), 16, 1, ".jpg"),
    "png": Source("ddpm_folder", (SIDE, SIDE, 3), 16, 1, ".png"),
}


def recipe(name: str) -> ConfigDict:
    """By its name in configs/."""
    return importlib.import_module(f"configs.{name}").get_config()


def photo(random: np.random.RandomState, height: int, width: int) -> Image.Image:
    """Coarse and fine shades with a little noise, which compress as a photo does."""
    total = 128 + 2 * random.standard_normal((height, width, 3))
    for cells, amplitude in ((3, 50), (9, 25), (30, 10)):
        for channel in range(3):
            coarse = random.standard_normal((cells, cells)).astype(np.float32)
            fine = Image.fromarray(coarse).resize((width, height), Image.BICUBIC)
            total[..., channel] += amplitude * np.asarray(fine)
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def make_folder(folder: Path, suffix: str, num: int) -> None:
    """Writes so many photos, every second one larger than `SIDE` and not square."""
    random = np.random.RandomState(0)
    folder.mkdir(parents=True)
    for i in range(num):
        height, width = (280, 320) if i % 2 else (SIDE, SIDE)
        quality = {"quality": 90} if suffix == ".jpg" else {}
        photo(random, height, width).save(folder / f"{i:04d}{suffix}", **quality)


def rate(
    config: ConfigDict, num_threads: int, seconds: float, *, in_memory: bool
) -> Row:
    """Images a second of a recipe's batches, after the first of them."""
    config = config.copy_and_resolve_references()
    config.data.num_threads = num_threads
    start = time.perf_counter()
    limit = sources.IN_MEMORY_BYTES if in_memory else 0
    with mock.patch.object(sources, "IN_MEMORY_BYTES", limit):
        (phase,) = phases.build(config)
        batches = phase.batches()
        size = math.prod(next(batches)["index"].shape)
        first = time.perf_counter() - start
        count, processor = 0, time.process_time()
        start = now = time.perf_counter()
        while now - start < seconds:
            next(batches)
            count, now = count + size, time.perf_counter()
    processor = time.process_time() - processor
    return {
        "images_per_s": count / (now - start),
        "images_per_s_of_a_core": count / processor,
        "first_batch_after_s": first,
    }


def eaten(source: Source, seconds: float) -> float:
    """Images a second that the trainer's step of the recipe takes, median of calls."""
    config = recipe(source.recipe)
    batch_size = config.data.batch_size
    if jax.default_backend() == "cpu" and source.batch_on_cpu:
        batch_size = source.batch_on_cpu
    step, _ = trainer_step(config, source.shape, batch_size)
    step()  # Compiles.
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return batch_size / float(np.median(times))


class Clocked:
    """A grain iterator that notes when it is asked for a batch, and when it gives it.

    Attributes:
        asked: Times.
        given: Times.
    """

    def __init__(self, batches: Any):
        self.batches = batches
        self.asked: list[float] = []
        self.given: list[float] = []

    def __next__(self) -> Any:
        self.asked.append(time.perf_counter())
        batch = next(self.batches)
        self.given.append(time.perf_counter())
        return batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batches, name)

    def waits(self, first: int) -> Row:
        """Part of the time of steps `first`, ... that passed until a batch was there.

        A step lasts from one request to the next.
        """
        asked = np.array(self.asked[first:])
        waited = (np.array(self.given[first:]) - asked)[:-1]
        return {
            "steps": len(waited),
            "ms_per_step": 1e3 * float(np.diff(asked).mean()),
            "ms_waited": 1e3 * float(waited.mean()),
            "share": float(waited.sum() / (asked[-1] - asked[0])),
        }


def loop_waits(config: ConfigDict, num_steps: int) -> Row:
    """How long the trainer's loop waits for batches, after a quarter of its steps."""
    config.num_steps, config.sample_every, config.eval_every = num_steps, 0, 0
    config.checkpoint.best_metric = ""
    made: list[Clocked] = []
    original = phases.Phase.batches

    def batches(phase: phases.Phase) -> Clocked:
        made.append(Clocked(original(phase)))
        return made[-1]

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(phases.Phase, "batches", batches),
    ):
        loop.train(config, folder)
    longest = max(made, key=lambda clocked: len(clocked.asked))
    return longest.waits(num_steps // 4)


@contextlib.contextmanager
def opened(name: str, num_images: int) -> Iterator[ConfigDict]:
    """The recipe of a source, its folder of images made for the time being."""
    source = SOURCES[name]
    config = recipe(source.recipe)
    if source.batch_size:
        config.data.batch_size = source.batch_size
    with tempfile.TemporaryDirectory() as folder:
        if source.suffix:
            path = Path(folder, "images")
            make_folder(path, source.suffix, num_images)
            config.data.update(name=f"folder:{path}", image_size=source.shape[:2])
        yield config


def pipelines(args: argparse.Namespace) -> list[Row]:
    """A row for each source, place and number of threads."""
    rows = []
    print(HEAD + "\n|" + "---|" * HEAD.count(" |"))
    for name in args.data:
        takes = args.step_images_per_s.get(name)
        if takes is None and name in args.time_steps:
            takes = eaten(SOURCES[name], args.seconds)
        with opened(name, args.images) as config:
            for kept in ("in memory", "decoded each time"):
                for threads in args.threads:
                    row = {"data": name, "kept": kept, "threads": threads}
                    try:
                        row |= rate(
                            config, threads, args.seconds, in_memory=kept == "in memory"
                        )
                    except ConfigError as error:
                        print(f"| {name} | {str(error).split(': ')[0]} |" + " |" * 6)
                        rows.append({"data": name, "skipped": str(error)})
                        break
                    rows.append(row | {"step_takes_images_per_s": takes})
                    print(line(rows[-1]), flush=True)
                if "skipped" in rows[-1]:
                    break
    return rows


def line(row: Row) -> str:
    """A row of the table."""
    takes = row["step_takes_images_per_s"]
    cells = [
        row["data"],
        row["kept"],
        "default" if row["threads"] < 0 else str(row["threads"]),
        f"{row['images_per_s']:,.0f}",
        f"{row['images_per_s_of_a_core']:,.0f}",
        f"{row['first_batch_after_s']:.1f}",
        "not run" if takes is None else f"{takes:,.0f}",
        "" if takes is None else f"{row['images_per_s'] / takes:,.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def loops(names: list[str], num_steps: int) -> list[Row]:
    """A row for each recipe that is trained for some steps."""
    rows = []
    for name in names:
        try:
            rows.append({"recipe": name, **loop_waits(recipe(name), num_steps)})
        except ConfigError as error:
            rows.append({"recipe": name, "skipped": str(error)})
    print("\n| recipe | ms a step | ms of it waited | share |\n|---|---|---|---|")
    for row in rows:
        if "skipped" in row:
            print(f"| {row['recipe']} | {row['skipped'].split(': ')[0]} | | |")
            continue
        print(
            f"| `{row['recipe']}` | {row['ms_per_step']:.1f} | {row['ms_waited']:.2f} "
            f"| {100 * row['share']:.1f} % |"
        )
    return rows


def figure(text: str) -> tuple[str, float]:
    """ "cifar10=5000" as a pair."""
    name, _, value = text.partition("=")
    if name not in SOURCES:
        raise argparse.ArgumentTypeError(f"expected one of {list(SOURCES)}, got {name}")
    return name, float(value)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", nargs="*", choices=SOURCES, default=list(SOURCES))
    add("--threads", type=int, nargs="+", default=[-1, 0, 1, 2, 4])
    add("--seconds", type=float, default=3.0, help="of timing (%(default)s)")
    add("--images", type=int, default=256, help="in a folder (%(default)s)")
    add("--time_steps", nargs="*", choices=SOURCES, default=["mnist"])
    add("--step_images_per_s", nargs="*", type=figure, default=[], metavar="DATA=NUM")
    add("--loops", nargs="*", default=["vae_mnist", "ddpm_digits"], metavar="RECIPE")
    add("--steps", type=int, default=400, help="of a loop (%(default)s)")
    add("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    args.step_images_per_s = dict(args.step_images_per_s)
    runtime.start()
    report = {"pipelines": pipelines(args), "loops": loops(args.loops, args.steps)}
    if args.out:
        args.out.write_text(json.dumps(report | describe(), indent=1) + "\n")


if __name__ == "__main__":
    main()
