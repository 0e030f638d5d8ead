"""Says what a trained run can say of its data and its samples, and saves it.

python evaluate.py --workdir=runs/ddpm_digits

Prints the players' losses and, where the method has a likelihood, bits/dim and nats
with their parts; writes them with the protocol to <workdir>/evaluation.json. How the
likelihood is estimated and how samples are drawn can be said: for methods that take
them --likelihood.num_samples=500 and --sampler.num_steps=50.

--num_samples and --features compare samples with real images. Other questions are
answered by <workdir>/<what>.json, with pictures or a page:
  distortions  does the distance of --features see damage to --num real images?
  neighbours   --num_samples beside the training images nearest to them, and whether
               they are nearer than held-out images are (memorisation, 0.5 if not)
  study        a page on which people tell --num_samples samples from real images, each
               pair seen for --seconds
"""

import argparse
import sys
from pathlib import Path

from genjax.train import cluster, stopping

NAMES = {"model": "evaluation"}  # Of the file, if it is not the question's.
OPTIONS = (  # Which of them applies depends on --what.
    "split", "num", "num_samples", "probe", "reconstruct", "lpips", "outliers",
    "foreign", "seconds",
)  # fmt: skip


def parse() -> tuple[argparse.Namespace, list[str]]:
    """The flags, and the words that are none."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--workdir", required=True, help="the run")
    add(
        "--what",
        choices=("model", "distortions", "neighbours", "study"),
        default="model",
    )
    add("--seed", type=int, default=0)
    add("--batch_size", type=int, default=128, help="(%(default)s)")
    add("--step", default="latest", help="checkpoint: a number, latest or best")
    add("--raw", action="store_true", help="the weights without their average")
    add("--split", choices=("test", "train"), help="of real images (test)")
    add("--num", type=int, help="first examples of the split (all)")
    add("--num_samples", type=int, metavar="N", help="draw N, to compare with the data")
    ask = parser.add_argument_group("of the model").add_argument
    ask(
        "--probe",
        type=int,
        metavar="N",
        help="also count the latent's active units, and fit a linear classifier to N "
        "training examples' latents",
    )
    ask(
        "--outliers",
        metavar="NAME",
        help="also tell the split from this data set, such as tfds:fashion_mnist, by "
        "the likelihood or else the energy",
    )
    ask(
        "--reconstruct",
        type=int,
        metavar="N",
        help="also compare N examples with their reconstructions",
    )
    by = parser.add_argument_group("by features").add_argument
    by(
        "--features",
        choices=("cnn", "inception"),
        help="of a classifier of the data, or of the FID's network",
    )
    by("--reference", choices=("train", "test"), default="train", help="real images")
    by("--weights", default="", help="a .safetensors of the FID's network (cached)")
    by("--resize", default="clean", help="for it: clean, pytorch or tensorflow")
    by("--lpips", choices=("alex", "vgg"), help="also LPIPS, of --reconstruct")
    by("--foreign", metavar="NAME", help="data set to contaminate with, distorting")
    parser.add_argument("--seconds", type=float, help="of a pair in the study (1)")
    cluster.add_flags(parser.add_argument_group("of several processes").add_argument)
    args, rest = parser.parse_known_args()
    for name in ("num", "probe", "reconstruct"):
        if (value := getattr(args, name)) is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    if args.num_samples is not None and args.num_samples < 2:
        parser.error("--num_samples must be at least 2: one says nothing of a spread")
    if args.what in ("distortions", "neighbours") and not args.features:
        parser.error(f"--what={args.what} asks for --features")
    needed = args.num_samples or args.reconstruct or args.what != "model"
    if args.features and not needed:
        parser.error(
            "--features compares samples: say how many by --num_samples, or images "
            "with --reconstruct"
        )
    if args.lpips and not args.reconstruct:
        parser.error("--lpips compares images with --reconstruct: say how many")
    return args, rest


def main(args: argparse.Namespace, rest: list[str]) -> None:
    """Reads the weights, measures, prints and saves."""
    import jax

    from genjax.config import check_arguments, overrides
    from genjax.train import evaluation, quality, reports, runtime, studies, tables

    runtime.start(**{name: getattr(args, name) for name in cluster.FLAGS})
    model = tables.Model.load(
        args.workdir,
        args.step,
        raw=args.raw,
        sections=overrides(rest, "likelihood", "sampler"),
        batch_size=args.batch_size,
        seed=args.seed,
    )
    questions = {
        "model": reports.whole,
        "distortions": studies.distortions,
        "neighbours": studies.neighbours,
        "study": studies.study,
    }
    ask = questions[args.what]
    options = {name: getattr(args, name) for name in OPTIONS}
    options = {name: value for name, value in options.items() if value is not None}
    # What can be refused comes before what takes long.
    check_arguments(ask, options, None, None, where=f"--what={args.what}")
    evaluation.check_likelihood(model.method, model.config.likelihood)
    if args.num_samples or args.what in ("neighbours", "study"):
        _ = model.draw  # Refuses a method that does not sample.
    judge = None
    if args.features:
        network = quality.make_network(
            args.features,
            model.dataset,
            model.config.data.name,
            mesh=model.mesh,
            weights=args.weights,
            resize=args.resize,
        )
        judge = quality.Quality(network, model.dataset, args.reference)
    report = ask(model, judge, **options)
    if jax.process_index():
        return  # The first process has it all, and writes.
    name = NAMES.get(args.what, args.what)
    print("\n".join(report.lines))
    print(", ".join(f"{name}: {value}" for name, value in report.protocol.items()))
    for doubt in report.protocol.get("warnings", ()):
        print(f"warning: {doubt}", file=sys.stderr)
    with stopping.tidily():  # Last, so that a full disk does not hide what was found.
        paths = report.write(Path(args.workdir), name)
    print(f"saved to {', '.join(map(str, paths))}", file=sys.stderr)


if __name__ == "__main__":
    stopping.end_at_once()
    from genjax.config import ConfigError

    with cluster.together():
        try:
            main(*parse())
        except (ConfigError, OSError) as error:
            sys.exit(f"error: {error}")
