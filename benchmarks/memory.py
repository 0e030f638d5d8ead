"""Memory of a recipe's train step against its batch, and what saves some.

python -m benchmarks.memory --config configs/ddpm_digits.py [--batch-sizes 64 256]
python -m benchmarks.memory --config configs/ddpm_cifar.py --chip=v5e

Peak bytes of one device, by the compiler: state, batch, activations and the program,
for the recipe without and with config.remat, config.accumulate and both. With
--chip it is compiled ahead of time for one TPU chip of that kind, with libtpu. Nothing
runs.
"""

import argparse
import dataclasses
import json
import math
from pathlib import Path

import jax

from benchmarks import steps, unets
from genjax.config import ConfigDict, ConfigError
from genjax.train import phases, topology

WAYS = {  # Columns of the table.
    "neither": dict(remat=False, accumulate=1),
    "remat": dict(remat=True, accumulate=1),
    "accumulate=4": dict(remat=False, accumulate=4),
    "both": dict(remat=True, accumulate=4),
}


def peaks(
    config: ConfigDict, devices: list[jax.Device], chip: topology.Chip
) -> dict[str, float | str]:
    """{way: bytes at the peak, or why there are none}."""
    found: dict[str, float | str] = {}
    for way, fields in WAYS.items():
        changed = config.copy_and_resolve_references()
        changed.update(fields)
        try:
            cost = topology.estimate(phases.build(changed, devices)[0], chip)
            found[way] = cost.peak
        except ConfigError as error:
            fits = "memory" not in str(error)
            found[way] = str(error).partition(":")[0] if fits else "does not fit"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/ddpm_digits.py")
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[32, 64, 128])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--chip", choices=list(topology.CHIPS))
    parser.add_argument("--out", help="JSON file to write")
    args = parser.parse_args()
    chip, devices = dataclasses.replace(topology.CHIPS["v5e"], memory=math.inf), None
    if args.chip:
        chip, devices = topology.slice_of(f"{args.chip}:2x2")
    config = steps.recipe(args.config)
    config.dtype, rows = args.dtype, {}
    print(f"| {args.config}, {args.dtype}, batch | {' | '.join(WAYS)} |")
    print("|---" * (1 + len(WAYS)) + "|", flush=True)
    for size in args.batch_sizes:
        config.data.batch_size = size
        rows[size] = peaks(config, (devices or jax.devices())[:1], chip)
        cells = [
            v if isinstance(v, str) else topology.gib(v) for v in rows[size].values()
        ]
        print(f"| {size} | {' | '.join(cells)} |", flush=True)
        if args.out:
            about = {"recipe": args.config, "chip": args.chip, **unets.describe()}
            Path(args.out).write_text(json.dumps({**about, "bytes": rows}, indent=2))


if __name__ == "__main__":
    main()
