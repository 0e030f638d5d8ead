"""Times tracing and compiling the train step of every recipe, or of some.

python -m benchmarks.compile_times [vae_mnist glow_cifar ...] [--variant=tiny]
    [--out=compile_times.json] [--resume] [--minutes=30]

Each recipe has a process of its own, without the compilation cache. Nothing is trained:
the step is lowered and compiled for shapes, as the trainer lowers and compiles it. Rows
appear as they come, and then a Markdown table sorted by time. A recipe whose data or
trained runs are not there, or that trains nothing, is named with the reason; so is one
that takes longer than --minutes. --resume keeps the rows that are in --out.
"""

import argparse
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from benchmarks.unets import describe
from genjax.config import ConfigError
from genjax.train import phases, runtime

ROOT = Path(__file__).parents[1]
Row = dict[str, Any]


def measure(name: str, variant: str) -> list[Row]:
    """Rows of a recipe's phases; in this process, which compiles all of it afresh."""
    config = importlib.import_module(f"configs.{name}").get_config(variant)
    try:
        stages = phases.build(config)
    except ConfigError as error:
        return [{"recipe": name, "skipped": str(error).split(": ")[0]}]
    rows = []
    for phase in stages:
        title = f"{name}, phase {phase.index}" if len(stages) > 1 else name
        if phase.method.players:
            rows.append({"recipe": title, **of_step(phase)})
        else:
            rows.append({"recipe": title, "skipped": "it trains nothing"})
    return rows


def of_step(phase: phases.Phase) -> Row:
    """Seconds to lower and to compile a phase's step, and how large it is."""
    state, batch = phases.abstract_state(phase), phases.abstract_batch(phase)
    key = jax.eval_shape(phase.key)
    start = time.perf_counter()
    lowered = phases.jit_train_step(phase, state).lower(state, batch, key)
    middle, processor = time.perf_counter(), time.process_time()
    lowered.compile()
    end = time.perf_counter()
    return {
        "lower_seconds": middle - start,
        "compile_seconds": end - middle,
        "compile_processor_seconds": time.process_time() - processor,
        "stablehlo_lines": lowered.as_text().count("\n"),
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
    }


def in_own_process(name: str, variant: str, minutes: float) -> list[Row]:
    """`measure` by a new interpreter."""
    words = [sys.executable, "-m", "benchmarks.compile_times", name, "--here"]
    try:
        run = subprocess.run(
            [*words, f"--variant={variant}"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            timeout=60 * minutes,
        )
    except subprocess.TimeoutExpired:
        return [{"recipe": name, "skipped": f"more than {minutes:g} minutes"}]
    if run.returncode:
        return [{"recipe": name, "skipped": f"it ended with {run.returncode}"}]
    return json.loads(run.stdout.splitlines()[-1])


def line(row: Row) -> str:
    """A row of the table."""
    if "skipped" in row:
        return f"| {row['recipe']} | {row['skipped']} | | | | |"
    return (
        f"| `{row['recipe']}` | {row['parameters']:,} | {row['stablehlo_lines']:,} | "
        f"{row['lower_seconds']:.1f} | {row['compile_seconds']:.1f} | "
        f"{row['compile_processor_seconds']:.1f} |"
    )


def table(found: Mapping[str, list[Row]]) -> str:
    """All rows in Markdown, the slowest first and what was skipped last."""
    rows = [row for rows in found.values() for row in rows]

    def seconds(row: Row) -> float:
        return row.get("lower_seconds", 0.0) + row.get("compile_seconds", 0.0)

    head = "| recipe | parameters | lines of StableHLO | trace and lower, s |"
    head += " compile, s | its processor time, s |"
    rows = sorted(rows, key=lambda row: (-seconds(row), row["recipe"]))
    return "\n".join([head, "|" + "---|" * 6, *map(line, rows)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", help="by default all in configs/")
    parser.add_argument("--variant", default="", help='of the recipes, such as "tiny"')
    parser.add_argument("--out", type=Path, help="JSON file to write, row by row")
    parser.add_argument("--resume", action="store_true", help="keep the rows in --out")
    parser.add_argument("--minutes", type=float, default=30, help="a recipe may take")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    runtime.use_all_cores()
    if args.here:
        jax.config.update("jax_enable_compilation_cache", False)
        rows = [row for name in args.recipes for row in measure(name, args.variant)]
        print(json.dumps(rows))
        return
    everything = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
    found: dict[str, list[Row]] = {}
    if args.resume and args.out and args.out.exists():
        kept = json.loads(args.out.read_text())
        found = kept["recipes"] if kept["variant"] == args.variant else {}
    for name in args.recipes or everything:
        if name not in found:
            found[name] = in_own_process(name, args.variant, args.minutes)
            for row in found[name]:
                print(line(row), file=sys.stderr, flush=True)
        if args.out:
            report = {"variant": args.variant, "recipes": found, **describe()}
            args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
