"""Trains every model of points on moons, checkerboard and rings, beside the truth.

python -m benchmarks.densities --workdir=runs/densities [--models nice ...]

Each model keeps the settings of its one recipe for points; only the data change. Writes
densities.png, a column a model: its density on each of the data sets, or its samples
where it has none. Prints the mean of -log p(x) over the first 4,000 held-out points, in
nats, of models that know it, and saves all of it in densities.json. Runs that are there
already are only measured.
"""

import argparse
import importlib
import json
from pathlib import Path

import numpy as np

from genjax import data, images
from genjax.config import ConfigDict, base_config
from genjax.train import loop, questions, runtime, writers
from genjax.train.tables import Model

DATA = ("moons", "checkerboard", "rings")
RECIPES = {
    "nice": "nice_moons",
    "realnvp": "realnvp_moons",
    "glow": "glow_moons",
    "residual_flow": "residual_flow_checkerboard",
    "ffjord": "ffjord_checkerboard",
    "igebm": "igebm_rings",
    "ncsn": "ncsn_ring",
}
NUM_POINTS = 4000


def recipe(model: str, name: str) -> ConfigDict:
    """The model's recipe for points, on other points and without pictures."""
    config = importlib.import_module(f"configs.{RECIPES[model]}").get_config()
    config.data.name = f"synthetic:{name}"
    config.sample_every = config.eval_every = 0
    return config


def measure(workdir: Path) -> tuple[np.ndarray, float | None]:
    """The last panel of the model's density table, and its nats if it has any."""
    model = Model.load(workdir, batch_size=500)
    picture = questions.density(model).cells[0, -1]
    if model.method.log_likelihood is None:
        return picture, None
    batch = data.gather(model.examples[1], np.arange(NUM_POINTS))
    return picture, float(-model.log_density(batch).mean())


def truth(name: str) -> tuple[np.ndarray, float]:
    """The same of the density that the data are drawn from."""
    options = base_config().data
    options.name = f"synthetic:{name}"
    dataset = data.load(options)
    x = data.gather(dataset.test, np.arange(NUM_POINTS))["point"]
    edge = 1.15 * float(np.abs(x).max())
    axis = np.linspace(-edge, edge, 150)
    plane = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    field = np.exp(dataset.density.log_prob(plane)).reshape(150, 150)
    nats = float(-dataset.density.log_prob(x).mean())
    return writers.panel(field=field, edge=edge), nats


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=list(RECIPES))
    args = parser.parse_args()
    runtime.start()
    rows = {"truth": [truth(name) for name in DATA]}
    for model in args.models:
        rows[model] = []
        for name in DATA:
            workdir = args.workdir / f"{model}_{name}"
            loop.train(recipe(model, name), workdir)
            rows[model].append(measure(workdir))
    cells = np.stack([[panel for panel, _ in row] for row in rows.values()], axis=1)
    halved = (*cells.shape[:2], 180, 2, 180, 2, 3)
    cells = cells.reshape(halved).mean((3, 5)).astype(np.uint8)
    picture = images.captioned(cells, list(DATA), list(rows))
    images.save_png(args.workdir / "densities.png", picture)
    report = {
        model: {name: nats for name, (_, nats) in zip(DATA, row, strict=True)}
        for model, row in rows.items()
    }
    (args.workdir / "densities.json").write_text(json.dumps(report, indent=1) + "\n")
    print(f"| model | {' | '.join(DATA)} |\n|{'---|' * (len(DATA) + 1)}")
    for model, found in report.items():
        numbers = ["" if x is None else f"{x:.3f}" for x in found.values()]
        print(f"| {model} | {' | '.join(numbers)} |")


if __name__ == "__main__":
    main()
