"""Whether a checkpoint fits a run, told before any array of it is read."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import (
    keystr,
    tree_leaves_with_path,
    tree_map_with_path,
    tree_unflatten,
)
from ml_collections import ConfigDict

from genjax import methods
from genjax.config import ConfigError
from genjax.train.checkpoints import (
    Checkpoints,
    DamagedCheckpointError,
    split_state,
)
from genjax.train.phases import Phase, start_state
from genjax.train.sharding import state_shardings
from genjax.train.state import TrainState
from genjax.train.workdir import Changes, differences, listed, record, refusal
from genjax.train.writers import say

WEIGHTS = ("params", "model_state", "ema_params")


def described(tree: Any) -> dict[str, str]:
    """{"params/net/kernel": "float32[3, 16]"} of arrays, or of what stands for them."""
    return {
        path: f"{jnp.dtype(leaf.dtype).name}{list(leaf.shape)}"
        for path, leaf in by_path(tree).items()
    }


def by_path(tree: Any) -> dict[str, Any]:
    """{"params/net/kernel": leaf}."""
    return {name(path): leaf for path, leaf in tree_leaves_with_path(tree)}


def name(path: tuple) -> str:
    """One for attributes, keys and places in lists, as a checkpoint has no types."""
    return keystr(path, simple=True, separator="/")


def fields(state: TrainState) -> dict[str, Any]:
    """What a checkpoint holds of a state, by name."""
    weights, training = split_state(state)
    return {**weights, **training}


def misfits(saved: Any, wanted: Any) -> Changes:
    """{path: (what is saved, what is wanted)} where they differ; None: it is not there.

    Args:
        saved: A tree of arrays, or of their shapes and dtypes.
        wanted: Likewise. Nothing is computed or read.
    """
    found = differences(described(saved), described(wanted))

    def kind(path: str) -> int:  # What follows from another comes after it.
        field = path.split("/")[0]
        return (*WEIGHTS, field).index(field)

    return {path: found[path] for path in sorted(found, key=kind)}


def listing(found: Changes) -> str:
    """The misfits in words, the first ten."""
    lines = []
    for path, (there, here) in found.items():
        if there is None:
            lines.append(f"{path}: {here} here, missing in the checkpoint")
        elif here is None:
            lines.append(f"{path}: {there} in the checkpoint, not here")
        else:
            lines.append(f"{path}: {there} in the checkpoint, {here} here")
    return listed(lines)


def check_something_fits(found: Changes, wanted: TrainState) -> None:
    """Raises ConfigError, with the misfits, if no weight is among what fits."""
    if not {f"params/{path}" for path in by_path(wanted.params)} - set(found):
        raise ConfigError(
            "--partial has nothing to go on with: no weight of the checkpoint fits:\n"
            + listing(found)
        )


def judge(
    checkpoints: Checkpoints, stages: list[Phase], partial: bool
) -> Callable[[Path, Changes], None]:
    """What `workdir.claim` asks of a started run that has another config.

    Args:
        checkpoints: Of the run.
        stages: Those of the new config.
        partial: Whether to go on with what fits.

    Returns:
        allow(workdir, changes), which raises ConfigError, with the fields and with the
        arrays that do not fit, unless the run may go on.
    """

    def allow(workdir: Path, changes: Changes) -> None:
        found: Changes = {}
        index, arrays = newest(checkpoints)
        if index < len(stages):
            wanted = stages[index].state
            found = misfits(arrays, fields(wanted)) if arrays else {}
            if partial:
                check_something_fits(found, wanted)
        elif partial:
            raise ConfigError(
                f"--partial cannot go on from phase {index}: config.phases has "
                f"{len(stages)}, counted from 0"
            )
        if not partial:
            arrays = f"\nThese arrays do not fit:\n{listing(found)}" if found else ""
            raise ConfigError(refusal(workdir, changes) + arrays)

    return allow


def newest(checkpoints: Checkpoints) -> tuple[int, dict[str, Any]]:
    """Phase of the newest checkpoint, and the shapes and dtypes of its arrays.

    Where it cannot be read they are none, and the phase is the first.
    """
    step = checkpoints.latest_step()
    try:
        return checkpoints.position(step)["phase"], checkpoints.metadata(step)
    except DamagedCheckpointError:
        return 0, {}


def resume(
    checkpoints: Checkpoints, step: int, phase: Phase, *, partial: bool = False
) -> TrainState:
    """The state of a checkpoint for the phase in which it was saved.

    Args:
        checkpoints: Of the run.
        step: Of the checkpoint.
        phase: As the config has it now.
        partial: Take what fits, and list what does not. Weights, averages and model
            state are taken one by one, and cast where only their dtype differs; a
            player's optimiser is taken whole or begins anew. The rest is what a fresh
            start would give it.

    Raises:
        ConfigError: If an array is missing, left over or of another shape or dtype,
            with the first ten; and with `partial`, if no weight fits.
    """
    wanted, saved = phase.state, checkpoints.metadata(step)
    found = misfits(saved, fields(wanted))
    if not found:
        return checkpoints.restore(step, wanted)
    if not partial:
        raise ConfigError(
            f"the checkpoint of step {step} does not fit this config in this version "
            f"of genjax:\n{listing(found)}\nGive another --workdir, or --partial to go "
            "on with what fits"
        )
    check_something_fits(found, wanted)
    say(
        f"Going on from step {step} with what fits; {len(found)} arrays do not:\n"
        + listing(found)
    )
    needed = by_path(fields(wanted))

    def place(path: tuple, leaf: Any) -> jax.ShapeDtypeStruct:
        like = needed.get(name(path))
        if like is None or like.shape != leaf.shape:
            # It is read all the same, but soon dropped.
            sharding = state_shardings(leaf, phase.mesh, ((".*", "largest"),))
        else:
            sharding = like.sharding
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    placed = tree_map_with_path(place, saved)
    weights = {field: placed.pop(field) for field in WEIGHTS if field in placed}
    values = checkpoints.read(step, weights, placed)
    state = take_what_fits(values, found, phase, wanted)
    record(checkpoints.folder.parent, {"step": step, "arrays": found})
    return state


def take_what_fits(
    saved: dict[str, Any], found: Changes, phase: Phase, wanted: TrainState
) -> TrainState:
    """Starts the phase, with what is saved in the place of an earlier phase.

    Args:
        saved: Everything in the checkpoint.
        found: What does not fit.
        phase: To start.
        wanted: Its abstract state.

    Raises:
        ConfigError: If a frozen network is not whole.
    """
    kept = {field: saved.get(field, {}) for field in WEIGHTS}
    previous = wanted.replace(step=saved["step"], **kept)
    state, values = start_state(phase, previous), by_path(saved)
    opt_state = dict(state.opt_state)
    for player, fresh in opt_state.items():
        paths = by_path({"opt_state": {player: fresh}})
        if any(path.startswith(f"opt_state/{player}/") for path in found):
            say(f"The optimiser of player {player!r} begins anew.")
        else:
            structure = jax.tree.structure(fresh)
            opt_state[player] = tree_unflatten(structure, [values[p] for p in paths])
    counts = {c: saved[c] for c in ("bad_steps", "skipped") if c not in found}
    return state.replace(opt_state=opt_state, **counts)


def check_weights(step: int, config: ConfigDict, weights: Mapping[str, Any]) -> None:
    """Holds a checkpoint's weights to the config beside them, for `load_weights`.

    Args:
        step: Of the checkpoint.
        config: That lies beside them.
        weights: {"params": tree, "ema_params": tree, "model_state": tree} of what has
            shapes and dtypes.

    Raises:
        ConfigError: If an array is missing, left over or of another shape or dtype,
            with the first ten.
    """
    size = config.data.batch_size // config.accumulate  # As when they were drawn.
    method, shape = methods.load(config), (size, *config.data.shape)
    entry, dtype = ("image", "uint8") if len(shape) == 4 else ("point", "float32")
    batch = {entry: jax.ShapeDtypeStruct(shape, dtype)}
    if config.data.num_classes is not None:
        batch["label"] = jax.ShapeDtypeStruct((size,), "int32")
    params, model_state = jax.eval_shape(method.init, jax.random.key(0), batch)
    averages = {name: params[name] for name in config.ema.networks if name in params}
    wanted = {"params": params, "ema_params": averages, "model_state": model_state}
    if found := misfits(weights, wanted):
        raise ConfigError(
            f"the weights of step {step} do not fit the config that lies beside them:\n"
            + listing(found)
        )
