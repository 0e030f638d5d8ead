"""Draws images from a trained run.

python sample.py --workdir=runs/ddpm_digits --num=100 --label=7 --out=out/

Writes out/samples.npz (images uint8 [N, H, W, C], and label where the method is
conditional), out/grid.png, and with --png one file an image. Image i depends on the
seed and on i alone. The recipe's sampler can be overridden: --sampler.name=ddim
--sampler.num_steps=50 --sampler.eta=0.
"""

import argparse
import ast
import sys
from pathlib import Path


def parse() -> tuple[argparse.Namespace, dict]:
    """The flags, and the overrides of config.sampler."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--workdir", required=True, help="the run")
    add("--out", default="out", help="folder to write to (%(default)s)")
    add("--num", type=int, default=64, help="images (%(default)s)")
    add("--label", default="all", help="a class, a comma list that is cycled, or all")
    add("--seed", type=int, default=0)
    add("--batch_size", type=int, default=64, help="images at once (%(default)s)")
    add("--step", default="latest", help="checkpoint: a number, latest or best")
    add("--raw", action="store_true", help="the weights without their average")
    add("--guidance_scale", type=float, help="short for --sampler.guidance_scale")
    add("--png", action="store_true", help="also one file an image")
    args, rest = parser.parse_known_args()
    sampler = {}
    for item in rest:
        name, found, value = item.removeprefix("--sampler.").partition("=")
        if not item.startswith("--sampler.") or not found:
            parser.error(
                f"unknown argument {item!r}; sampler options: --sampler.name=value"
            )
        words = {"true": "True", "false": "False", "none": "None"}
        try:
            sampler[name] = ast.literal_eval(words.get(value.lower(), value))
        except (SyntaxError, ValueError):
            sampler[name] = value  # A word, such as ddim.
    if args.guidance_scale is not None:
        sampler["guidance_scale"] = args.guidance_scale
    if args.num < 1 or args.batch_size < 1:
        parser.error("--num and --batch_size must be at least 1")
    return args, sampler


def main(args: argparse.Namespace, sampler: dict) -> None:
    """Reads the weights, draws, writes."""
    import jax
    import numpy as np

    from genjax import images, methods
    from genjax.train import runtime, sampling
    from genjax.train.checkpoints import load_weights
    from genjax.train.sharding import all_devices

    runtime.start()
    mesh = all_devices()
    weights = load_weights(args.workdir, args.step, mesh)
    config = weights.config.unlock()
    config.sampler = {**config.sampler.to_dict(), **sampler}
    method = methods.load(config)
    draw = sampling.make_draw(method, mesh, min(args.batch_size, args.num))
    cond = sampling.make_cond(method, config, args.num, args.label)
    drawn = draw(
        weights.params if args.raw else weights.averaged(),
        weights.model_state,
        seed=args.seed,
        num=args.num,
        cond=cond,
    )
    if jax.process_index():
        return  # The first process has them all, and writes.
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out / "samples.npz", images=drawn, **cond)
    images.save_png(out / "grid.png", images.grid(drawn), min_side=512)
    for i, image in enumerate(drawn if args.png else []):
        images.save_png(out / f"{i:06d}.png", image)
    print(f"{args.num} images from step {weights.step} in {out}/", file=sys.stderr)


if __name__ == "__main__":
    arguments = parse()
    from genjax.config import ConfigError

    try:
        main(*arguments)
    except (ConfigError, OSError) as error:
        sys.exit(f"error: {error}")
