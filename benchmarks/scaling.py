"""Weak scaling: the trainer's step on 1, 2, 4, .. devices, each with as many images.

python -m benchmarks.scaling [--config configs/ddpm_cifar.py ...] [--per_device_batch=8]
    [--devices 1 2 4 8] [--fsdp] [--digits=32] [--seconds=5] [--out=scaling.json]

On accelerators: images a second, and the efficiency, which is images/s of n devices
over n times those of the first count. On a CPU each count n is measured in a process of
its own that sees n virtual devices, and what the devices exchange is reported: how
often and how many bytes, by the compiled program; and for how long, by a trace of it.

Virtual devices share the CPU's cores, so that n of them take n times as long for their
n times as many images, and an efficiency would say nothing. Bytes and counts are those
of real devices. The time of an exchange is that of copies in memory, not of a network:
"exchange" is what the device that came last spent in each, which waited for none, and
"waiting" what the devices spent there beyond it, on average, mostly because cores were
computing for others. The share is that of both in the step that was traced.
"""

import argparse
import json
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax

from benchmarks import steps, unets
from genjax.train import runtime, topology

DEFAULT = ("configs/ddpm_digits.py", "configs/sngan_digits.py")
TRACED = 5  # Steps.


def measure(
    config: str,
    num: int,
    *,
    per_device_batch: int,
    fsdp: bool = False,
    digits: int | None = None,
    seconds: float = 5.0,
) -> dict[str, Any]:
    """The step of a recipe on the first `num` devices of this process.

    Args:
        config: As train.py takes it.
        num: Devices.
        per_device_batch: Images a device and update.
        fsdp: Split the state over all of them.
        digits: Side of scikit-learn's digits, to train on instead of the recipe's data.
        seconds: Of timing.
    """
    options = steps.recipe(config)
    options.data.batch_size = per_device_batch * num * options.accumulate
    if fsdp:
        options.mesh.fsdp = num
    if digits:
        options.data.name, options.data.image_size = "digits", (digits, digits)
    step = steps.TrainStep(options, jax.devices()[:num])
    leaves = jax.tree.leaves(step.state.params)
    found = topology.find_collectives(step.compiled.as_text())
    (spent,) = steps.medians([step], seconds)
    result = {
        "config": config,
        "devices": num,
        "batch_size": options.data.batch_size,
        "fsdp": fsdp,
        "parameter_bytes": sum(x.size * x.dtype.itemsize for x in leaves),
        "peak_bytes_a_device": steps.peak_bytes(step.compiled),
        "seconds": spent,
        "images_per_second": step.images / spent,
        "collectives": {
            kind: {"count": c.count, "payload_bytes": c.payload, "sent_bytes": c.sent}
            for kind, c in found.items()
        },
    }
    if jax.default_backend() == "cpu":
        result |= in_collectives(traced(step, TRACED), TRACED)
    return result


def traced(call: Callable[[], None], times: int) -> list[jax.profiler.ProfileEvent]:
    """The events of a profile of so many calls; their last is the wall clock's."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(times):
                with jax.profiler.TraceAnnotation("whole step"):
                    call()
        (path,) = Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(path))
        return [
            e for plane in profile.planes for line in plane.lines for e in line.events
        ]


def in_collectives(events: Iterable[Any], num_steps: int) -> dict[str, float]:
    """Seconds a step in exchanges, by a trace.

    Args:
        events: With name, start_ns, duration_ns and stats; of an operation these hold
            hlo_op, run_id and device_ordinal.
        num_steps: That were traced.

    Returns:
        "traced_exchanges" and "traced_seconds" a step; of the latter the
        "exchange_seconds" themselves and the "waiting_seconds" until all have come; and
        the "share" of both.
    """
    spent: dict[tuple, dict[int, list]] = defaultdict(lambda: defaultdict(list))
    whole = 0.0
    for event in events:
        if event.name == "whole step":
            whole += event.duration_ns
        elif re.match(topology.KINDS, event.name):
            stats = dict(event.stats)
            if "device_ordinal" in stats:
                operation = stats["run_id"], stats["hlo_op"]
                found = event.start_ns, event.duration_ns
                spent[operation][stats["device_ordinal"]].append(found)
    count, least, mean = 0, 0.0, 0.0
    for devices in spent.values():
        # In a loop an operation runs many times, on each device in the same order.
        for turn in zip(*map(sorted, devices.values()), strict=True):
            durations = [duration for _, duration in turn]
            count += 1
            least += min(durations)
            mean += sum(durations) / len(durations)
    return {
        "traced_exchanges": count / num_steps,
        "traced_seconds": whole / num_steps / 1e9,
        "exchange_seconds": least / num_steps / 1e9,
        "waiting_seconds": (mean - least) / num_steps / 1e9,
        "share": mean / whole,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    if "share" not in rows[0]:
        lines = ["| recipe | devices | batch | ms a step | images/s | efficiency |"]
        lines.append("|---|---|---|---|---|---|")
        for row in rows:
            first = next(r for r in rows if r["config"] == row["config"])
            ideal = first["images_per_second"] / first["devices"] * row["devices"]
            efficiency = row["images_per_second"] / ideal
            lines.append(
                f"| `{Path(row['config']).stem}` | {row['devices']} | "
                f"{row['batch_size']} | {1e3 * row['seconds']:.3g} | "
                f"{row['images_per_second']:.4g} | {efficiency:.3f} |"
            )
        return "\n".join(lines)
    lines = [
        "| recipe | virtual devices | batch | exchanges a step | MB reduced or "
        "gathered (sent by a device) | parameters, MB | ms a step | exchange, waiting, "
        "ms | share of the step |",
        "|" + "---|" * 9,
    ]
    for row in rows:
        kinds = row["collectives"]
        counts = ", ".join(f"{c['count']} {kind}" for kind, c in kinds.items())
        total = [
            sum(c[key] for c in kinds.values()) / 1e6
            for key in ("payload_bytes", "sent_bytes")
        ]
        cells = [
            f"`{Path(row['config']).stem}`" + (", fsdp" if row["fsdp"] else ""),
            f"{row['devices']}",
            f"{row['batch_size']}",
            counts or "none",
            f"{total[0]:.3f} ({total[1]:.3f})",
            f"{row['parameter_bytes'] / 1e6:.3f}",
            f"{1e3 * row['seconds']:.3g}",
            f"{1e3 * row['exchange_seconds']:.2g}, {1e3 * row['waiting_seconds']:.2g}",
            f"{100 * row['share']:.0f} %",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", nargs="+", default=list(DEFAULT), help="(%(default)s)")
    add("--devices", nargs="+", type=int, help="(1 2 4 8; as many as there are)")
    add("--per_device_batch", type=int, default=16, help="(%(default)s)")
    add("--fsdp", action="store_true", help="split the state over all devices")
    add("--digits", type=int, help="side of digits to take for the recipe's data")
    add("--seconds", type=float, default=5.0, help="of timing a step (%(default)s)")
    add("--out", help="JSON file to write")
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    runtime.start()
    keywords = {
        name: getattr(args, name)
        for name in ("per_device_batch", "fsdp", "digits", "seconds")
    }
    if args.worker:
        rows = [measure(c, *args.devices, **keywords) for c in args.config]
        print(json.dumps(rows))
        return
    virtual = jax.default_backend() == "cpu"
    there = 8 if virtual else jax.device_count()
    counts = args.devices or [2**i for i in range(there.bit_length())]
    if not virtual and max(counts) > there:
        sys.exit(f"error: --devices {max(counts)}, but there are {there}")
    if virtual:
        words = [f"--{k}={v}" for k, v in keywords.items() if k != "fsdp" and v]
        words += ["--fsdp"] * args.fsdp + ["--worker", "--config", *args.config]
        rows = [
            row
            for num in counts
            for row in steps.on_virtual_devices(
                num, "benchmarks.scaling", "--devices", str(num), *words
            )
        ]
    else:
        rows = [measure(c, n, **keywords) for n in counts for c in args.config]
    rows.sort(key=lambda row: args.config.index(row["config"]))
    print(table(rows))
    if args.out:
        report = {"rows": rows, **unets.describe()}
        Path(args.out).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
