"""Draws the learning curves of runs: a measure of the test split against images seen.

python -m benchmarks.curves runs/glow_mnist runs/realnvp_mnist --out=curves.png \\
    [--metric=bits_per_dim]

Reads what config.eval_every left in each run's metrics.jsonl: the entry "test/..." that
ends in --metric.
"""

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure


def curve(workdir: Path, metric: str) -> tuple[list[int], list[float]]:
    """Images seen and the measure of each evaluation on the test split."""
    config = json.loads((workdir / "config.json").read_text())
    images, values = [], []
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        for name, value in entry.items():
            if name.startswith("test/") and name.endswith(f"/{metric}"):
                images.append(entry["step"] * config["data"]["batch_size"])
                values.append(value)
    if not images:
        raise SystemExit(f"{workdir} has no test/.../{metric}; was eval_every 0?")
    return images, values


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdirs", type=Path, nargs="+")
    parser.add_argument("--metric", default="loss")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot(
        xlabel="images seen", ylabel=args.metric.replace("_", " "), xscale="log"
    )
    for workdir in args.workdirs:
        axes.plot(*curve(workdir, args.metric), ".-", label=workdir.name)
    figure.legend(loc="outside right upper")
    axes.grid(alpha=0.3)
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
