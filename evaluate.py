"""Says what a trained run can say of its test split, and saves it.

python evaluate.py --workdir=runs/ddpm_digits

Prints the players' losses and, where the method has a likelihood, bits/dim and nats
with their parts; writes them with the protocol to <workdir>/evaluation.json. How the
likelihood is estimated can be said: --likelihood.num_samples=500, for methods whose
log_likelihood takes it.

--num_samples and --features compare samples with real images. Two other questions are
answered with <workdir>/<what>.json and a picture:
  distortions  does the distance of --features see damage to --num test images?
  neighbours   --num_samples beside the training images nearest to them, and whether
               they are nearer than held-out images are (memorisation, 0.5 if not)
"""

import argparse
import json
import math
import sys
from pathlib import Path


def parse() -> tuple[argparse.Namespace, list[str]]:
    """The flags, and the words that are none."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--workdir", required=True, help="the run")
    add("--what", choices=("model", "distortions", "neighbours"), default="model")
    add("--split", choices=("test", "train"), default="test")
    add("--num", type=int, help="first examples of the split (all)")
    add("--seed", type=int, default=0)
    add("--batch_size", type=int, default=128, help="(%(default)s)")
    add("--step", default="latest", help="checkpoint: a number, latest or best")
    add("--raw", action="store_true", help="the weights without their average")
    add(
        "--probe",
        type=int,
        default=0,
        metavar="N",
        help="also count the latent's "
        "active units, and fit a linear classifier to N training examples' latents",
    )
    add(
        "--outliers",
        metavar="NAME",
        help="also tell the split from this data set, "
        "such as tfds:fashion_mnist, by the likelihood or else the energy",
    )
    add(
        "--num_samples",
        type=int,
        default=0,
        metavar="N",
        help="also draw N and compare them with the data, in pixels",
    )
    add(
        "--features",
        choices=("cnn", "inception"),
        help="also by features, of a classifier of the data or of the FID's network",
    )
    add("--weights", default="", help="a .safetensors of the FID's network (cached)")
    add("--resize", default="clean", help="for it: clean, pytorch or tensorflow")
    add("--foreign", metavar="NAME", help="data set to contaminate with, distorting")
    add("--reference", choices=("train", "test"), default="train", help="real images")
    args, rest = parser.parse_known_args()
    if args.num_samples < 0 or args.num_samples == 1:
        parser.error("--num_samples must be at least 2: one says nothing of a spread")
    if args.what != "model" and not args.features:
        parser.error(f"--what={args.what} asks for --features")
    if args.features and args.what != "distortions" and not args.num_samples:
        parser.error("--features compares samples: say how many by --num_samples")
    return args, rest


def main(args: argparse.Namespace, rest: list[str]) -> None:
    """Reads the weights, measures, prints and saves."""
    import jax

    from genjax import data, methods
    from genjax.config import ConfigError, overrides
    from genjax.metrics.likelihood import in_bits_per_dim
    from genjax.train import evaluation, quality, runtime, sampling, studies
    from genjax.train.checkpoints import load_weights
    from genjax.train.sharding import all_devices

    runtime.start()
    mesh = all_devices()
    weights = load_weights(args.workdir, args.step, mesh)
    config = weights.config.unlock()
    config.likelihood = {**config.likelihood.to_dict(), **overrides(rest, "likelihood")}
    method, dataset = methods.load(config), data.load(config.data)
    evaluation.check_likelihood(method, config.likelihood)
    source = getattr(dataset, args.split)
    if source is None:
        raise ConfigError(f"{config.data.name} has no {args.split} split; try --split")
    num = args.num or len(source)
    networks = [] if args.raw else sorted(weights.ema_params)
    params = weights.params if args.raw else weights.averaged()
    evaluator = evaluation.Evaluator(
        method,
        config.likelihood,
        params,
        weights.model_state,
        mesh=mesh,
        batch_size=args.batch_size,
        seed=args.seed,
    )
    # What can be refused comes before what takes long.
    measured, judge = {}, None
    if args.num_samples:
        draw = sampling.make_draw(method, mesh, args.batch_size)
    if args.features and not jax.process_index():  # The first process judges alone.
        network = quality.make_network(
            args.features,
            dataset,
            config.data.name,
            weights=args.weights,
            resize=args.resize,
        )
        judge = quality.Quality(network, dataset, args.reference)
    if args.what == "distortions":
        other = args.foreign and evaluation.foreign(config, args.foreign, args.split)
        if judge:
            study = studies.distortions(judge, num=num, seed=args.seed, foreign=other)
            protocol = judge.protocol(study.results["examples"])
            write_study(args, study, {"data": config.data.name, **protocol})
        return
    if args.outliers:
        other = evaluation.foreign(config, args.outliers, args.split)
        measured |= evaluator.outliers(source, other, num, config.data.num_classes)
    if args.probe:
        measured |= evaluator.latents(dataset.train, source, args.probe, num)
    if args.num_samples:
        cond = sampling.make_cond(method, config, args.num_samples)
        drawn = draw(
            params,
            weights.model_state,
            seed=args.seed,
            num=args.num_samples,
            cond=cond,
        )
        measured |= evaluation.of_samples(drawn, dataset)
    if args.what == "neighbours":
        if judge:
            study = studies.neighbours(judge, drawn, num=10)
            protocol = judge.protocol(args.num_samples) | {"step": weights.step}
            write_study(args, study, {"data": config.data.name, **protocol})
        return
    measured |= evaluator.split(source, num)
    if judge:
        measured |= judge.measure(drawn)
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
        "likelihood": config.likelihood.to_dict(),
        "probe_examples": args.probe,
        "outliers": args.outliers,
    }
    if args.num_samples:
        protocol["num_samples"] = args.num_samples
        protocol["sampler"] = config.sampler.to_dict()
    if judge:
        protocol |= judge.protocol(args.num_samples)
    if jax.process_index():
        return  # The first process has it all, and writes.
    path = Path(args.workdir) / "evaluation.json"
    report = {"protocol": protocol, "results": results}
    path.write_text(json.dumps(report, indent=1) + "\n")
    for name, entry in results.items():
        error = (
            f" +- {entry['standard_error']:.5f}" if "standard_error" in entry else ""
        )
        print(f"{name:32} {entry['value']:.5f}{error}  ({entry['examples']} examples)")
    print(", ".join(f"{name}: {value}" for name, value in protocol.items()))
    for doubt in protocol.get("warnings", ()):
        print(f"warning: {doubt}", file=sys.stderr)
    print(f"saved to {path}", file=sys.stderr)


def write_study(args: argparse.Namespace, study, protocol: dict) -> None:
    """<workdir>/<what>.json, the pictures, and the table on the screen."""
    from genjax import images

    folder = Path(args.workdir)
    report = {"protocol": {"seed": args.seed, **protocol}, "results": study.results}
    path = folder / f"{args.what}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    for name, picture in study.pictures.items():
        images.save_png(folder / f"{name}.png", picture)
    print("\n".join(study.lines))
    print(", ".join(f"{name}: {value}" for name, value in report["protocol"].items()))
    print(f"saved to {path} and .png", file=sys.stderr)


if __name__ == "__main__":
    from genjax.config import ConfigError

    try:
        main(*parse())
    except (ConfigError, OSError) as error:
        sys.exit(f"error: {error}")
