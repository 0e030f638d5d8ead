"""Questions to a distance, and to samples beside the data they may be copies of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from genjax import data, images
from genjax.config import ConfigError
from genjax.metrics.distortions import CONTAMINATION, DISTORTIONS, contamination
from genjax.metrics.neighbours import memorisation, nearest
from genjax.train.quality import Quality
from genjax.train.writers import pixels

SHOWN = 3  # Neighbours of each sample in the picture.


@dataclass(frozen=True)
class Study:
    """What is to be written.

    Attributes:
        results: For a JSON.
        pictures: uint8 [H, W, 3] by name.
        lines: A table in Markdown.
    """

    results: dict[str, Any]
    pictures: dict[str, np.ndarray]
    lines: list[str]


def distortions(
    judge: Quality, *, num: int, seed: int, foreign: data.Examples | None = None
) -> Study:
    """How a distance grows with damage to real images, of four strengths each.

    Args:
        judge: Whose distance it is.
        num: Images of the test split, or of the training split where there is none.
        seed: Of the damage.
        foreign: Images of the same shape, some of which replace real ones.
    """
    source = judge.dataset.test or judge.dataset.train
    clean = data.gather(source, np.arange(min(num, len(source))))["image"]
    kinds = {name: (fn, levels, ()) for name, (fn, levels) in DISTORTIONS.items()}
    if foreign is not None:
        other = data.gather(foreign, np.arange(min(num, len(foreign))))["image"]
        kinds["contamination"] = contamination, CONTAMINATION, (other,)
    start, found, cells = judge.distance(clean), {}, []
    for name, (fn, levels, more) in kinds.items():
        made = [fn(clean, s, np.random.default_rng(seed), *more) for s in levels]
        values = [judge.distance(x) for x in made]
        monotone = bool(np.all(np.diff([start, *values]) > 0))
        found[name] = dict(strengths=levels, distances=values, monotone=monotone)
        cells.append(np.stack([x[0] for x in (clean, *made)]))
    distance = judge.network.distance
    results = {
        "distance": distance,
        "examples": len(clean),
        "undamaged": start,
        "distortions": found,
    }
    lines = [
        "| distortion | strengths | " + distance + " | monotone |",
        "|---" * 4 + "|",
    ]
    for name, entry in found.items():
        shown = (
            ", ".join(f"{x:{form}}" for x in entry[key])
            for key, form in (("strengths", "g"), ("distances", ".3f"))
        )
        lines.append(f"| {name} | {' | '.join(shown)} | {entry['monotone']} |")
    columns = ["0", *(f"strength {i + 1}" for i in range(4))]
    pictures = {
        "distortions": _plot(found, start, distance),
        "distortions_images": images.captioned(np.stack(cells), list(found), columns),
    }
    return Study(results, pictures, lines)


def _plot(found: dict[str, dict], start: float, distance: str) -> np.ndarray:
    """Distance against strength, a panel for each kind."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), dpi=100, layout="constrained")
    for i, (name, entry) in enumerate(found.items()):
        axes = figure.add_subplot(2, 3, i + 1)
        axes.plot([0, *entry["strengths"]], [start, *entry["distances"]], "o-")
        axes.set(title=name, xlabel="strength", ylabel=distance)
        axes.set_ylim(bottom=0)
    return pixels(figure)


def neighbours(judge: Quality, samples: np.ndarray, *, num: int) -> Study:
    """The training images nearest to samples, and whether samples are copies of them.

    Args:
        judge: Whose features count beside pixels.
        samples: uint8 [N, H, W, C].
        num: Samples in the picture.

    Raises:
        ConfigError: If the data has no test split to compare with.
    """
    judge.check(samples)
    if judge.dataset.test is None:
        raise ConfigError("--what=neighbours needs a test split beside the training's")
    train, held_out = (
        data.gather(split, np.arange(len(split)))["image"]
        for split in (judge.dataset.train, judge.dataset.test)
    )
    spaces: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "pixels": lambda x: x.reshape(len(x), -1).astype(np.float32),
        judge.network.name: lambda x: judge.network(x)[0],
    }
    results, cells, columns = {"examples": len(samples)}, [samples[:num, None]], []
    for name, space in spaces.items():
        x, real, fresh = space(samples), space(train), space(held_out)
        results[f"memorisation_{name}"] = memorisation(x, real, fresh)
        cells.append(train[nearest(x[:num], real, SHOWN)[1]])
        columns += [f"{name} {i + 1}" for i in range(SHOWN)]
    rows = [f"sample {i}" for i in range(len(cells[0]))]
    picture = images.captioned(np.concatenate(cells, 1), rows, ["sample", *columns])
    lines = ["| memorisation by | |", "|---|---|"]
    lines += [f"| {name} | {results[f'memorisation_{name}']:.3f} |" for name in spaces]
    return Study(results, {"neighbours": picture}, lines)
