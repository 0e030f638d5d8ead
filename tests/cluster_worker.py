"""One process of a cluster, which tells what it was given and what it did."""

import json
import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from configs.vae_digits import get_config
from genjax.config import ConfigDict, ConfigError
from genjax.train import checkpoints, feed, loop, runtime, workdir

ROOT = Path(__file__).parents[1]
STEPS = 24  # Of 64 examples: an epoch of 1,501, and a part of the next.
FIELDS = {
    "data.batch_size": 64,
    "log_every": 1,
    "sample_every": 0,
    "eval_every": 0,
    "optimizers.vae.schedule": "constant",
    "mesh.fsdp": 2,
}


def make_config(**fields: object) -> ConfigDict:
    config = get_config("tiny")
    config.update_from_flattened_dict({**FIELDS, **fields})
    return config


def train(
    config: ConfigDict, folder: Path, at: int = 0, then: Callable[[], None] = print
) -> tuple[bool, np.ndarray]:
    """Whether training ended, and the rows that its steps were given: [steps, B / P].

    `then` is called with batch number `at`.
    """
    rows, original = [], feed.Feed.__next__

    def record(self):
        batch, index = original(self)
        rows.append(index[0])
        if len(rows) == at:
            then()
        return batch, index

    feed.Feed.__next__ = record
    try:
        finished = loop.train(config, folder)
    finally:
        feed.Feed.__next__ = original
    return finished, np.stack(rows)


def leaves(state) -> dict[str, np.ndarray]:
    """The whole of every array of a state by its path, from all processes."""
    whole = multihost_utils.process_allgather(state, tiled=True)
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(whole)
    }


def keep(name: str, path: Path) -> None:
    """Writes down the states that `Checkpoints.save` gets or `restore` gives."""
    original = getattr(checkpoints.Checkpoints, name)

    def kept(self, *args, **options):
        result = original(self, *args, **options)
        state = args[0] if name == "save" else result
        found = leaves(state)
        if jax.process_index() == 0:
            np.savez(path, **found)
        return result

    setattr(checkpoints.Checkpoints, name, kept)


def stopped(folder: Path) -> dict:
    """Trains until process 1 is told to stop, which all of them shall hear."""
    runtime.start(stoppable=True)
    process = jax.process_index()
    workdir.PATIENCE = 0
    try:
        workdir.claim(folder / f"of_{process}", make_config())
        refused = ""
    except ConfigError as error:
        refused = str(error)

    def stop() -> None:
        if process == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    keep("save", folder / "written.npz")
    config = make_config(num_steps=100_000)
    finished, index = train(config, folder / "run", STEPS, stop)
    return {
        "devices": [jax.local_device_count(), jax.device_count()],
        "refused": refused,
        "finished": finished,
        "index": index.tolist(),
    }


def commands(folder: Path, *lines: str) -> dict:
    """Runs commands one after the other, all in the cluster of the first."""
    joined, initialize = [], jax.distributed.initialize

    def once(*args, **options):
        if not joined:
            initialize(*args, **options)
        joined.append(args)

    jax.distributed.initialize = once
    keep("restore", folder / "restored.npz")
    codes = []
    for line in lines:
        sys.argv = json.loads(line)
        try:
            runpy.run_path(str(ROOT / sys.argv[0]), run_name="__main__")
            codes.append(0)
        except SystemExit as end:
            codes.append(end.code or 0)
    devices = [jax.local_device_count(), jax.device_count()]
    return {"devices": devices, "joined": joined, "codes": codes}


if __name__ == "__main__":
    task, folder, *words = sys.argv[1:]
    told = {"stopped": stopped, "commands": commands}[task](Path(folder), *words)
    path = Path(folder) / f"{task}_{jax.process_index()}.json"
    path.write_text(json.dumps(told))
