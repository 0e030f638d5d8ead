"""Says what a trained run can say of its test split, and saves it.

python evaluate.py --workdir=runs/ddpm_digits

Prints the players' losses and, where the method has a likelihood, bits/dim and nats
with their parts; writes them with the protocol to <workdir>/evaluation.json.
"""

import argparse
import json
import math
import sys
from pathlib import Path


def parse() -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--workdir", required=True, help="the run")
    add("--split", choices=("test", "train"), default="test")
    add("--num", type=int, help="first examples of the split (all)")
    add("--seed", type=int, default=0)
    add("--batch_size", type=int, default=128, help="(%(default)s)")
    add("--step", default="latest", help="checkpoint: a number, latest or best")
    add("--raw", action="store_true", help="the weights without their average")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Reads the weights, measures, prints and saves."""
    import jax

    from genjax import data, methods
    from genjax.config import ConfigError
    from genjax.metrics.likelihood import in_bits_per_dim
    from genjax.train import evaluation, runtime
    from genjax.train.checkpoints import load_weights
    from genjax.train.sharding import all_devices

    runtime.start()
    mesh = all_devices()
    weights = load_weights(args.workdir, args.step, mesh)
    config = weights.config.unlock()
    config.sampler = {}  # Nothing is drawn.
    method = methods.load(config)
    source = getattr(data.load(config.data), args.split)
    if source is None:
        raise ConfigError(f"{config.data.name} has no {args.split} split; try --split")
    networks = [] if args.raw else sorted(weights.ema_params)
    measured = {}
    for fn in evaluation.measures(method, mesh):
        measured |= evaluation.over_split(
            fn,
            weights.params if args.raw else weights.averaged(),
            weights.model_state,
            source,
            mesh=mesh,
            batch_size=args.batch_size,
            num_examples=args.num or len(source),
            seed=args.seed,
        )
    dims = math.prod(config.data.shape)
    results = in_bits_per_dim(measured, dims)
    protocol = {
        "data": config.data.name,
        "split": args.split,
        "seed": args.seed,
        "batch_size": args.batch_size,
        "step": weights.step,
        "ema": networks,
        "bound": method.bound,
    }
    if jax.process_index():
        return  # The first process has it all, and writes.
    path = Path(args.workdir) / "evaluation.json"
    report = {"protocol": protocol, "results": results}
    path.write_text(json.dumps(report, indent=1) + "\n")
    for name, entry in results.items():
        print(
            f"{name:32} {entry['value']:.5f} +- {entry['standard_error']:.5f}"
            f"  ({entry['examples']} images)"
        )
    print(", ".join(f"{name}: {value}" for name, value in protocol.items()))
    print(f"saved to {path}", file=sys.stderr)


if __name__ == "__main__":
    from genjax.config import ConfigError

    try:
        main(parse())
    except (ConfigError, OSError) as error:
        sys.exit(f"error: {error}")
