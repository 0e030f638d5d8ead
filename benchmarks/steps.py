"""The trainer's compiled programs, to measure; and processes with virtual devices."""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from genjax.train import phases, sharding

ROOT = Path(__file__).parents[1]
COUNT_FLAG = "--xla_force_host_platform_device_count"


def recipe(words: str) -> ConfigDict:
    """The config that train.py reads for --config=<words>: a file, or file:tiny."""
    path, _, variant = words.partition(":")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or not Path(path).is_file():
        sys.exit(
            f"error: --config must name a recipe such as configs/ddpm_digits.py, "
            f"got {path!r}"
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


class TrainStep:
    """A run's train step, compiled, with a state and batches for it.

    Attributes:
        phase: The first of the run's.
        traced: The program of one step as it is written.
        compiled: The same on each device.
        images: That all the players' updates of a step see.
    """

    def __init__(self, config: ConfigDict, devices: Sequence[jax.Device]):
        """Builds what a run would, for these devices."""
        self.phase = phases.build(config, devices)[0]
        self.state = phases.start_state(self.phase, None)
        batches = {k: v for k, v in next(self.phase.batches()).items() if k != "index"}
        self.batches = sharding.to_global(batches, sharding.split(self.phase.mesh, 1))
        self.key = jax.device_put(
            self.phase.key(), sharding.replicated(self.phase.mesh)
        )
        step = phases.jit_train_step(self.phase, self.state)
        self.traced = step.trace(self.state, self.batches, self.key)
        self.compiled = self.traced.lower().compile()
        options = self.phase.config
        rows = self.phase.rows() // options.accumulate
        self.images = options.data.batch_size * rows

    def __call__(self) -> None:
        """Takes a step, and waits for it."""
        self.state, metrics = self.compiled(self.state, self.batches, self.key)
        jax.block_until_ready((self.state, metrics))


def peak_bytes(compiled: jax.stages.Compiled) -> int:
    """Of one device, by the compiler: arguments, temporaries, results of their own."""
    memory = compiled.memory_analysis()
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return kept - memory.alias_size_in_bytes + memory.temp_size_in_bytes


def medians(
    calls: Sequence[Callable[[], Any]], seconds: float, at_least: int = 3
) -> list[float]:
    """Median seconds of each call, in turns, so that what disturbs one disturbs all.

    Args:
        calls: They return when their work is done. Two first ones are not counted.
        seconds: For all of it, warming up left out.
        at_least: Turns, even where they take longer.
    """
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(2):
        for call in calls:
            call()
    begin = time.perf_counter()
    while len(times[0]) < at_least or time.perf_counter() - begin < seconds:
        for call, spent in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            spent.append(time.perf_counter() - start)
    return [statistics.median(spent) for spent in times]


def on_virtual_devices(num: int, module: str, *words: str) -> Any:
    """What `python -m <module> <words>` prints as JSON, on so many devices."""
    flags = [
        flag
        for flag in os.environ.get("XLA_FLAGS", "").split()
        if not flag.startswith(COUNT_FLAG)
    ]
    flags = " ".join([*flags, f"{COUNT_FLAG}={num}"])
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    env = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1])
