"""Trains the recipes on 25 Gaussians and counts the modes that their samples cover.

python -m benchmarks.modes --workdir=runs/modes [--seeds 3] [--recipes vanilla_grid ...]

Prints a row a recipe: modes covered and share of good samples (genjax.metrics.modes) of
10,000 samples of the last weights, for each seed. Runs that are there already are only
measured.
"""

import argparse
import importlib
import json
from pathlib import Path

from genjax import data, methods
from genjax.train import evaluation, loop, runtime, sampling, sharding
from genjax.train.checkpoints import load_weights

RECIPES = (
    "vanilla_grid",
    "non_saturating_grid",
    "lsgan_grid",
    "wgan_grid",
    "wgan_gp_grid",
)
NUM_SAMPLES = 10_000


def measure(workdir: Path) -> dict[str, float]:
    """Modes and share of good samples of a trained run."""
    mesh = sharding.all_devices()
    weights = load_weights(workdir, "latest", mesh)
    draw = sampling.make_draw(methods.load(weights.config), mesh, NUM_SAMPLES)
    samples = draw(
        weights.averaged(), weights.model_state, seed=0, num=NUM_SAMPLES, cond={}
    )
    found = evaluation.of_samples(samples, data.load(weights.config.data))
    return {name.split("/")[1]: entry["value"] for name, entry in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--recipes", nargs="*", default=RECIPES)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    runtime.start()
    report = {}
    for recipe in args.recipes:
        for seed in range(args.seeds):
            config = importlib.import_module(f"configs.{recipe}").get_config()
            config.seed = seed
            workdir = args.workdir / f"{recipe}_{seed}"
            loop.train(config, workdir)
            report.setdefault(recipe, []).append(measure(workdir))
    (args.workdir / "modes.json").write_text(json.dumps(report, indent=1) + "\n")
    print("| recipe | modes covered of 25 | good samples |\n|---|---|---|")
    for recipe, found in report.items():
        modes = ", ".join(f"{x['modes']:.0f}" for x in found)
        good = ", ".join(f"{x['good_share']:.0%}" for x in found)
        print(f"| `{recipe}` | {modes} | {good} |")


if __name__ == "__main__":
    main()
