"""The same U-Net twice, ours and diffusers', and how to time contenders fairly."""

import argparse
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from genjax.networks.unet import UNet
from genjax.train import runtime

NETWORKS = {  # DDPM's for CIFAR-10 and a laptop's, by number of parameters.
    "35.7M": dict(features=128, multipliers=(1, 2, 2, 2)),
    "1.0M": dict(features=32, multipliers=(1, 2)),
    "tiny": dict(features=8, multipliers=(1,)),
}
ATTENDS_AT, DROPOUT, SIZE = 16, 0.1, 32


def ours(name: str, batch_size: int) -> tuple[UNet, dict, jax.Array]:
    """Returns (network, params, images) at random weights."""
    net = UNet(
        out_channels=3,
        dropout=DROPOUT,
        attention_resolutions=(ATTENDS_AT,),
        **NETWORKS[name],
    )
    x = jax.random.normal(jax.random.key(0), (batch_size, SIZE, SIZE, 3))
    init = jax.jit(lambda key: net.init(key, x, jnp.zeros(batch_size), train=False))
    return net, init(jax.random.key(1)), x


def theirs(name: str):
    """Returns diffusers' network of the same shape."""
    from diffusers import UNet2DModel

    features, multipliers = NETWORKS[name].values()
    attends = [SIZE // 2**level == ATTENDS_AT for level in range(len(multipliers))]
    return UNet2DModel(
        sample_size=SIZE,
        layers_per_block=2,
        block_out_channels=tuple(features * m for m in multipliers),
        down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in attends[::-1]],
        norm_num_groups=min(32, features // 4),
        norm_eps=1e-6,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        attention_head_dim=None,
        dropout=DROPOUT,
    )


def race(contenders: Mapping[str, Callable | str], rounds: int) -> dict[str, dict]:
    """Times the contenders in turns, so that what disturbs one disturbs all.

    Args:
        contenders: {name: a call that returns when its work is done, or the reason why
            it cannot run}; the first is ours.
        rounds: Timed calls of each, after two that warm up, or one for a single round.

    Returns:
        {name: {"seconds": median, "speed_of_ours": median over rounds of its time
        divided by ours}} or {name: {"failed": reason}}.
    """
    failed = {name: f for name, f in contenders.items() if isinstance(f, str)}
    times = {name: [] for name in contenders if name not in failed}
    for name in list(times):
        try:
            contenders[name]()
        except Exception as error:  # torch.compile fails where there is no compiler.
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
            del times[name]
    for i in range(rounds + (rounds > 1)):
        for name in times:
            start = time.perf_counter()
            contenders[name]()
            if i or rounds == 1:
                times[name].append(time.perf_counter() - start)
    first = next(iter(times.values()))
    results = {name: {"failed": reason} for name, reason in failed.items()}
    for name, seconds in times.items():
        ratios = [s / mine for s, mine in zip(seconds, first, strict=True)]
        results[name] = {
            "seconds": statistics.median(seconds),
            "speed_of_ours": statistics.median(ratios),
        }
    return results


def describe() -> dict:
    """Says what the numbers were measured on and with."""
    packages = ("jax", "jaxlib", "flax", "optax", "torch", "diffusers")
    installed = {
        d.metadata["Name"]: d.version for d in importlib.metadata.distributions()
    }
    return {
        "versions": {name: installed.get(name) for name in packages},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
        "load_at_end": os.getloadavg()[0],
        "environment": {
            name: os.environ[name]
            for name in ("XLA_FLAGS", "GLIBC_TUNABLES", "OMP_NUM_THREADS")
            if name in os.environ
        },
    }


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The command line that the benchmarks share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=list(NETWORKS), nargs="*")
    parser.add_argument("--batch-sizes", type=int, nargs="*")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--compile", action="store_true", help="and torch.compile")
    parser.add_argument("--only-ours", action="store_true")
    parser.add_argument("--out", help="JSON file to write")
    return parser


def compare(
    args: argparse.Namespace, task: str, ours: Callable, theirs: Callable
) -> None:
    """Races the two for each network and batch size, and reports.

    Args:
        args: Of `arguments`.
        task: What one call does, for the table.
        ours: (network, batch size) -> a call that does it.
        theirs: The same, with a keyword `compiled` for torch.compile.
    """
    if not args.only_ours:
        require_torch()
    runtime.use_all_cores()
    rows = []
    for name, batch_size in itertools.product(args.network, args.batch_sizes):
        contenders = {"genjax": ours(name, batch_size)}
        if not args.only_ours:
            contenders["diffusers, eager"] = theirs(name, batch_size)
            if args.compile:
                compiled = theirs(name, batch_size, compiled=True)
                contenders["diffusers, torch.compile"] = compiled
        rows.append(
            {
                "task": f"{task} {name}, batch {batch_size}",
                "items": batch_size,
                "results": race(contenders, args.rounds),
            }
        )
    report(rows, "images", args.out)


def require_torch() -> None:
    """Exits with advice where the other side of the comparison is missing."""
    for name in ("torch", "diffusers"):
        if importlib.util.find_spec(name) is None:
            sys.exit(
                f"this benchmark compares with {name}, which is not installed: "
                'pip install -e ".[bench]", or pass --only-ours'
            )


def report(rows: list[dict], unit: str, out: str | None) -> None:
    """Prints a Markdown table and writes JSON.

    Args:
        rows: {"task": ..., "items": what one call makes, "results": from `race`}.
        unit: Of the items, per second.
        out: Where to write, if anywhere.
    """
    print(f"| task | contender | s per call | {unit}/s | ours is faster by |")
    print("|---|---|---|---|---|")
    for row in rows:
        for name, result in row["results"].items():
            cells = [result.get("failed", ""), "", ""]
            if "seconds" in result:
                seconds, ratio = result["seconds"], result["speed_of_ours"]
                cells = [
                    f"{seconds:.3f}",
                    f"{row['items'] / seconds:.2f}",
                    f"{ratio:.2f}",
                ]
            print("| " + " | ".join([row["task"], name, *cells]) + " |")
    if out:
        with open(out, "w") as file:
            json.dump({"rows": rows, **describe()}, file, indent=2)
