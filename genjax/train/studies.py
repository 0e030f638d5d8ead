"""Questions to a distance, and to samples beside the data they may be copies of."""

from collections.abc import Callable

import numpy as np

from genjax import data, images
from genjax.config import ConfigError
from genjax.metrics.distortions import CONTAMINATION, DISTORTIONS, contamination
from genjax.metrics.neighbours import memorisation, nearest
from genjax.train import evaluation
from genjax.train.quality import Quality
from genjax.train.reports import Report, find_split, of_sampling, of_weights
from genjax.train.study_page import study_page
from genjax.train.tables import Model, of_classes
from genjax.train.writers import pixels

PICTURED = 10  # Samples in the picture of neighbours,
SHOWN = 3  # and neighbours of each.


def distortions(
    model: Model,
    judge: Quality,
    *,
    split: str = "test",
    num: int | None = None,
    foreign: str = "",
) -> Report:
    """How a distance grows with damage to real images, of four strengths each.

    Args:
        model: Whose data it is.
        judge: Whose distance it is.
        split: Of the images.
        num: The first so many of them; by default all.
        foreign: Name of data of the same shape, which replace some of the images.
    """
    source, seed = find_split(model, split), model.seed
    num = num or len(source)
    clean = data.gather(source, np.arange(min(num, len(source))))["image"]
    kinds = {name: (fn, levels, ()) for name, (fn, levels) in DISTORTIONS.items()}
    if foreign:
        other = evaluation.foreign(model.config, foreign, split)
        other = data.gather(other, np.arange(min(num, len(other))))["image"]
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
    protocol = {
        "data": model.config.data.name,
        "split": split,
        "seed": seed,
        **judge.protocol(len(clean)),
    }
    return Report(protocol, results, lines, pictures)


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


def neighbours(model: Model, judge: Quality, *, num_samples: int = 1000) -> Report:
    """The training images nearest to samples, and whether samples are copies of them.

    Args:
        model: That draws.
        judge: Whose features count beside pixels.
        num_samples: How many.

    Raises:
        ConfigError: If the data has no test split to compare with.
    """
    if judge.dataset.test is None:
        raise ConfigError("--what=neighbours needs a test split beside the training's")
    samples, _ = model.samples(num_samples)
    judge.check(samples)
    train, held_out = (
        data.gather(split, np.arange(len(split)))["image"]
        for split in (judge.dataset.train, judge.dataset.test)
    )
    spaces: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "pixels": lambda x: x.reshape(len(x), -1).astype(np.float32),
        judge.network.name: lambda x: judge.network(x)[0],
    }
    results, cells, columns = {"examples": len(samples)}, [samples[:PICTURED, None]], []
    for name, space in spaces.items():
        x, real, fresh = space(samples), space(train), space(held_out)
        results[f"memorisation_{name}"] = memorisation(x, real, fresh)
        cells.append(train[nearest(x[:PICTURED], real, SHOWN)[1]])
        columns += [f"{name} {i + 1}" for i in range(SHOWN)]
    rows = [f"sample {i}" for i in range(len(cells[0]))]
    picture = images.captioned(np.concatenate(cells, 1), rows, ["sample", *columns])
    lines = ["| memorisation by | |", "|---|---|"]
    lines += [f"| {name} | {results[f'memorisation_{name}']:.3f} |" for name in spaces]
    protocol = {
        **of_weights(model),
        **of_sampling(model, num_samples),
        **judge.protocol(num_samples),
    }
    return Report(protocol, results, lines, {"neighbours": picture})


def study(
    model: Model,
    judge: Quality | None,
    *,
    split: str = "test",
    num_samples: int = 50,
    seconds: float = 1.0,
) -> Report:
    """A page for people, who tell real images from samples; see `study_page`.

    Args:
        model: That draws.
        judge: Not asked.
        split: Of the real images, its first ones, of the samples' classes in turn.
        num_samples: Pairs that are shown.
        seconds: For which each pair is seen.
    """
    source = find_split(model, split)
    samples, cond = model.samples(num_samples)
    if samples.ndim != 4:
        raise ConfigError("--what=study needs images, but the data are points")
    if num_samples > len(source):
        raise ConfigError(
            f"--num_samples: {num_samples} real images are needed, of {len(source)}"
        )
    index = np.arange(num_samples)
    if "label" in cond:
        index = of_classes(source, cond["label"])
    real = data.gather(source, index)["image"]
    protocol = {
        **of_weights(model),
        **of_sampling(model, num_samples),
        "split": split,
        "seconds": seconds,
    }
    try:
        page = study_page(
            real,
            samples,
            seconds=seconds,
            seed=model.seed,
            title="Which image is real?",
            protocol=protocol,
        )
    except ValueError as error:
        raise ConfigError(f"--what=study: {error}") from None
    lines = [f"{num_samples} pairs, {seconds:g} s each: open study.html in a browser"]
    return Report(protocol, {"pairs": num_samples}, lines, pages={"study": page})
