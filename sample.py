"""Draws images from a trained run, or walks in its latent.

python sample.py --workdir=runs/ddpm_digits --num=100 --label=7 --out=out/

Writes out/samples.npz (images uint8 [N, H, W, C] or points [N, D], and label where the
method is conditional), out/grid.png, and with --png one file an image. Image i depends
on the seed and on i alone. The recipe's sampler can be overridden: --sampler.name=ddim
--sampler.num_steps=50 --sampler.eta=0.

Any other --what writes out/<what>.png, with captions, and out/<what>.npz. Where the
method can encode images, a walk sets out from real ones of the test split, else from
draws of the prior, of which draw i is that of sample i:
  interpolate  --num ways between two latents, --points images each
  manifold     the plane of a latent of two numbers, --points a side
  reconstruct  --num real images over their reconstruction
  arithmetic   mean latent of A - B + C: --classes=A,B,C, the first three real images of
               each class, or --exemplars=1,5,7/2,3,9/4,6,8, draws chosen by hand
  traverse     one number of a latent at a time (--axes) over --points from -3 to 3
  complete     --points draws of what --known=top of a real image leaves open
  density      points of the plane: data, samples, and the density at --points a side
  denoise      real images with noise of --sigma, and what is made of those
With real images, --label says of which classes they are.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genjax.train import cluster, stopping

if TYPE_CHECKING:
    from genjax.train.tables import Model

OPTIONS = (  # Which of them applies depends on --what.
    "num", "label", "points", "path", "between", "classes", "exemplars", "axes",
    "known", "sigma",
)  # fmt: skip


def numbers(text: str) -> list[int]:
    """[1, 5] from "1,5"."""
    return [int(word) for word in text.split(",")]


def groups(text: str) -> list[list[int]]:
    """[[1, 5], [2, 3]] from "1,5/2,3"."""
    return [numbers(group) for group in text.split("/")]


def parse() -> tuple[argparse.Namespace, list[str]]:
    """The flags, and the words that are none."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--workdir", required=True, help="the run")
    add("--what", default="samples", help="samples, or a walk (%(default)s)")
    add("--out", default="out", help="folder to write to (%(default)s)")
    add("--seed", type=int, default=0)
    add("--batch_size", type=int, default=64, help="images at once (%(default)s)")
    add("--step", default="latest", help="checkpoint: a number, latest or best")
    add("--raw", action="store_true", help="the weights without their average")
    add("--guidance_scale", type=float, help="short for --sampler.guidance_scale")
    add("--png", action="store_true", help="also one file an image, of samples")
    walk = parser.add_argument_group("of samples and of walks").add_argument
    walk("--num", type=int, help="samples (64), ways (8) or reconstructions (16)")
    walk("--label", help="a class, a comma list that is cycled, or all (all)")
    walk("--points", type=int, help="images along a way, axis or side (9, 7, 20)")
    walk("--path", help="slerp or lerp (slerp where latents have a prior)")
    walk("--between", help="images or prior (images where the method encodes them)")
    walk("--classes", type=numbers, help="A,B,C of arithmetic")
    walk("--exemplars", type=groups, help="draws for A, B and C: 1,5,7/2,3,9/4,6,8")
    walk("--known", help="top, bottom, left or right: what --what=complete keeps (top)")
    walk("--sigma", type=float, help="of the noise of --what=denoise (0.3)")
    walk("--axes", type=numbers, help="places in the flattened latent (the first 10)")
    cluster.add_flags(parser.add_argument_group("of several processes").add_argument)
    args, rest = parser.parse_known_args()
    if args.guidance_scale is not None:
        rest.append(f"--sampler.guidance_scale={args.guidance_scale}")
    if (args.num is not None and args.num < 1) or args.batch_size < 1:
        parser.error("--num and --batch_size must be at least 1")
    if args.png and args.what != "samples":
        parser.error("--png is for samples; a walk's images are in its .npz")
    return args, rest


def main(args: argparse.Namespace, rest: list[str]) -> None:
    """Reads the weights, draws or walks, writes."""
    import jax
    import numpy as np

    from genjax import files, images
    from genjax.config import ConfigError, call, choose, overrides
    from genjax.train import runtime, tables, walks

    choose({"samples": None, **walks.WALKS}, args.what, "--what")
    runtime.start(**{name: getattr(args, name) for name in cluster.FLAGS})
    out = Path(args.out).expanduser()
    if jax.process_index() == 0:
        try:
            files.check_writable(out)
        except OSError as error:
            raise ConfigError(f"--out={out} cannot be written: {error}") from None
    model = tables.Model.load(
        args.workdir,
        args.step,
        raw=args.raw,
        sections=overrides(rest, "sampler"),
        batch_size=args.batch_size,
        seed=args.seed,
    )
    if args.png and len(model.config.data.shape) != 3:
        raise ConfigError("--png needs images, but the data are points")
    options = {name: getattr(args, name) for name in OPTIONS}
    options = {name: value for name, value in options.items() if value is not None}
    if args.what == "samples":
        name, min_side = "grid", 512
        arrays, picture = call(draw, options, model, where="--what=samples")
    else:
        name, min_side = args.what, 0
        walk = walks.make(args.what, model, options)
        arrays = walk.arrays
        picture = images.captioned(walk.cells, walk.rows, walk.columns)
    if jax.process_index():
        return  # The first process has them all, and writes.
    with stopping.tidily():
        with (
            files.replacing(out / f"{args.what}.npz") as part,
            open(part, "wb") as file,
        ):
            np.savez_compressed(file, **arrays)
        images.save_png(out / f"{name}.png", picture, min_side=min_side)
        for i, image in enumerate(arrays["images"] if args.png else []):
            images.save_png(out / f"{i:06d}.png", image)
    print(f"{args.what} from step {model.step} in {out}/", file=sys.stderr)


def draw(model: "Model", *, num: int = 64, label: str = "all") -> tuple[dict, Any]:
    """Samples: what goes into the file, and their picture."""
    from genjax import images
    from genjax.train import writers

    model = dataclasses.replace(model, batch_size=min(model.batch_size, num))
    drawn, cond = model.samples(num, label)
    if drawn.ndim == 4:
        return {"images": drawn, **cond}, images.grid(drawn)
    return {"points": drawn, **cond}, writers.scatter(drawn)


if __name__ == "__main__":
    stopping.end_at_once()
    arguments = parse()
    from genjax.config import ConfigError

    with cluster.together():
        try:
            main(*arguments)
        except (ConfigError, OSError) as error:
            sys.exit(f"error: {error}")
