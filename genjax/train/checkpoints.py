"""Orbax checkpoints: one step folder holds weights, optimisers, position and config."""

import contextlib
import errno
import itertools
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    BestN,
    EveryNSteps,
    LatestN,
)

from genjax.config import ConfigError, plain
from genjax.train import inspection, sums
from genjax.train.sharding import replicated
from genjax.train.state import TrainState
from genjax.train.writers import say
from genjax.untrusted import read_json, reading

ARRAYS = ("weights", "training")  # Items; the others are JSON.
DAMAGED, TRASH = "damaged", "deleting"  # Folders beside those of the steps.
TEMPORARY = ".orbax-checkpoint-tmp"  # How Orbax names what is not whole yet.
READ_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class Weights:
    """What sampling and evaluation need of a run.

    Attributes:
        step: Train steps taken.
        config: The resolved config that was saved with them.
        params: {network: tree}.
        ema_params: {network: tree}, for the networks that have an average.
        model_state: {name: tree}.
    """

    step: int
    config: ConfigDict
    params: Mapping[str, Any]
    ema_params: Mapping[str, Any]
    model_state: Mapping[str, Any]

    def averaged(self) -> dict[str, Any]:
        """The params, averages in the place of the networks that have one."""
        return {**self.params, **self.ema_params}


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; the message says which one is the last."""


class DamagedCheckpointError(ConfigError):
    """A checkpoint is not what was saved; the message says which one, and why."""

    def __init__(self, folder: Path, reason: str):
        """Of the checkpoint in `folder`, which bears the name of its step."""
        super().__init__(f"the checkpoint of step {folder.name} is damaged: {reason}")
        self.step, self.reason = int(folder.name), reason


class Manager(ocp.CheckpointManager):
    """Orbax's, which leaves it to `stopping.StopRequest` to ask for a preemption."""

    def reached_preemption(self, step: int) -> bool:
        """Never: JAX counts the questions, and is to hear each count once."""
        return False


class Checkpoints:
    """The folder `<workdir>/checkpoints`, written in the background.

    Old checkpoints are renamed before they are deleted, and new ones after they are
    whole, so that no process that is killed leaves half of one under a step's name.
    """

    def __init__(self, workdir: str | Path, options: ConfigDict):
        """Of a run; `options` is config.checkpoint. Nothing is changed yet.

        Raises:
            ConfigError: If its folder holds links, pipes and the like.
        """
        self.options = options
        self.folder = Path(workdir).resolve() / "checkpoints"
        inspection.check_files(self.folder)
        self.background = ThreadPoolExecutor(1, "checkpoints")
        self.pending: Future[None] | None = None  # The end of the last save.
        self.last: int | None = None  # The step resumed from, or saved since.
        self.problem: str | None = None  # Why the last save failed.

    @cached_property
    def manager(self) -> ocp.CheckpointManager:
        """Orbax's; it makes the folder, and clears what was left half done there."""
        options = self.options
        # Asked first: the policies say what stays, everything else is deleted.
        keep, best_fn = [LatestN(n=options.keep)], None
        if options.keep_period:
            keep.append(EveryNSteps(interval_steps=options.keep_period))
        if name := options.best_metric:
            worst = math.inf if options.best_mode == "min" else -math.inf

            def best_fn(metrics: Mapping[str, float]) -> float:
                value = metrics.get(name, worst)  # An older one may lack it.
                return value if math.isfinite(value) else worst

            best = BestN(
                get_metric_fn=best_fn,
                reverse=options.best_mode == "min",
                n=1,
                keep_checkpoints_without_metrics=False,
            )
            keep.append(best)
        self.empty_trash()
        return Manager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy(keep),
                best_fn=best_fn,  # Has the metrics saved.
                cleanup_tmp_directories=True,
                todelete_subdir=TRASH,  # Renamed in one go; we delete it then.
            ),
            item_handlers=handlers(),
        )

    def empty_trash(self) -> None:
        """Deletes the checkpoints that are no longer kept."""
        if jax.process_index() == 0:
            shutil.rmtree(self.folder / TRASH, ignore_errors=True)

    def latest_step(self) -> int | None:
        """The newest step committed, or None."""
        return max(committed(self.folder), default=None)

    def save(
        self,
        state: TrainState,
        step: int,
        *,
        config: ConfigDict,
        phase: int,
        data: Any,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts writing; returns once the device arrays are copied.

        What cannot be written is said, and `finish` raises if it was the last.

        Raises:
            CheckpointError: With several processes, if this one cannot write.
        """
        self.settle()
        if step == self.last:
            return
        weights, training = split_state(state)
        arrays = {"weights": weights, "training": training}
        plains = {"position": {"phase": phase, "data": data}, "config": plain(config)}
        metrics = dict(metrics) if metrics else None
        found = {name: sums.of_tree(tree) for name, tree in arrays.items()}
        found |= {name: sums.of_json(value) for name, value in plains.items()}
        found["metrics"] = sums.of_json(metrics)
        plains["sums"] = {"sums": found, "own": sums.of_json(found)}
        saved = {k: ocp.args.StandardSave(v) for k, v in arrays.items()}
        saved |= {k: ocp.args.JsonSave(v) for k, v in plains.items()}
        try:
            self.check_space()
            self.manager.save(step, args=ocp.args.Composite(**saved), metrics=metrics)
        except OSError as error:
            self.failed(step, error)
        else:
            self.pending = self.background.submit(self.complete, step)

    def check_space(self) -> None:
        """Looks for room for another checkpoint of the size of the last one.

        Raises:
            OSError: If there is too little; beginning would fill the disk for nothing.
        """
        last = self.latest_step()
        if last is None or jax.process_count() > 1:  # One alone must not stop.
            return
        files = [x for x in (self.folder / str(last)).rglob("*") if x.is_file()]
        # Disks give whole blocks, mostly of this size.
        needed = sum(-(-file.stat().st_size // 4096) * 4096 for file in files)
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            sizes = f"{needed / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free"
            raise OSError(f"{os.strerror(errno.ENOSPC)}: {sizes}")

    def complete(self, step: int) -> None:
        """Waits in the background until `step` is on disk, and what is old is not."""
        try:
            self.manager.wait_until_finished()
        except Exception as error:  # Whatever Orbax makes of what it met.
            self.failed(step, error)
        else:
            self.last, self.problem = step, None
        self.empty_trash()

    def failed(self, step: int, error: Exception) -> None:
        """Says that a save failed, and clears up so that the next one may work.

        Raises:
            CheckpointError: With several processes, for the others know nothing of it.
        """
        last = self.latest_step()
        self.problem = (
            f"the checkpoint of step {step} could not be written: {reason(error)}; "
            + ("there is none yet" if last is None else f"the last is of step {last}")
        )
        if jax.process_count() > 1:
            raise CheckpointError(self.problem) from error
        say(f"{self.problem}. The next one is tried at its time.")
        manager = self.__dict__.pop("manager", None)  # The next save opens another.
        if manager is not None:
            with contextlib.suppress(Exception):  # It was told.
                manager.close()
        for path in self.folder.glob("*" + TEMPORARY):
            shutil.rmtree(path, ignore_errors=True)

    def settle(self) -> None:
        """Waits until the last save is on disk, or has failed and was told."""
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.result()

    def finish(self) -> None:
        """Waits until the last save is on disk.

        Raises:
            CheckpointError: If it could not be written.
        """
        self.settle()
        if self.problem:
            raise CheckpointError(self.problem)

    def resume(
        self, take: Callable[[int, int], TrainState]
    ) -> tuple[int, dict[str, Any], TrainState] | None:
        """The newest whole checkpoint: its step, position and state.

        Newer ones that are damaged are moved to `checkpoints/damaged`, which is said.

        Args:
            take: (step, index of its phase) -> state, by `restore` or `read`.

        Returns:
            None if nothing was saved yet.

        Raises:
            DamagedCheckpointError: If there are some, but none is whole. Then
                nothing is moved.
        """
        steps = sorted(committed(self.folder), reverse=True)
        damaged: list[DamagedCheckpointError] = []
        found = None
        for step in steps:
            try:
                if found is None:
                    position = self.position(step)
                    state = take(step, position["phase"])
                    found, self.last = (step, position, state), step
                else:  # Orbax stops at one whose metrics it cannot read.
                    read_plains(self.folder / str(step))
            except DamagedCheckpointError as error:
                damaged.append(error)
        if damaged and found is None:
            first, *more = damaged
            more = "".join(f"\n  and {error}" for error in more)
            raise DamagedCheckpointError(
                self.folder / str(first.step),
                f"{first.reason}{more}\nNo other is whole. To start again move "
                f"{self.folder} away, or give another --workdir",
            )
        for error in damaged:
            place = self.set_aside(error.step)
            say(f"{error}. It was moved to {place}; step {found[0]} is used instead.")
        return found

    def set_aside(self, step: int) -> Path:
        """Moves a damaged checkpoint to where no step is looked for, and says where."""
        places = (
            self.folder / DAMAGED / f"{step}{suffix}"
            for suffix in itertools.chain([""], map(".{}".format, itertools.count(2)))
        )
        place = next(place for place in places if not place.exists())
        synchronize("genjax: a place for a damaged checkpoint was found")
        if jax.process_index() == 0:
            place.parent.mkdir(exist_ok=True)
            (self.folder / str(step)).rename(place)
        synchronize("genjax: a damaged checkpoint was moved")
        return place

    def position(self, step: int) -> dict[str, Any]:
        """{"phase": index, "data": the iterator's state} as saved with `step`.

        Raises:
            DamagedCheckpointError: If it or another part beside the arrays is damaged.
            ConfigError: If it is no such thing.
        """
        found = read_plains(self.folder / str(step))["position"]
        with reading(f"the position in step {step} of {self.folder}"):
            return inspection.restore_position(found)

    def restore(self, step: int, abstract: TrainState) -> TrainState:
        """The state of `step`, on the shardings that `abstract` names.

        Raises:
            DamagedCheckpointError: If it is not what was saved.
        """
        return abstract.replace(**self.read(step, *split_state(abstract)))

    def metadata(self, step: int) -> dict[str, Any]:
        """Shapes and dtypes of what `step` holds of a state, by field.

        Raises:
            DamagedCheckpointError: See `metadata`.
        """
        found = metadata(self.folder / str(step))
        return {**found["weights"], **found["training"]}

    def read(self, step: int, weights: Any, training: Any) -> dict[str, Any]:
        """The arrays of `step`, of the structures and on the shardings of the two.

        Raises:
            DamagedCheckpointError: If they are not what was saved.
        """
        trees = {"weights": weights, "training": training}
        restored = read_arrays(self.folder / str(step), trees)
        return {**restored["weights"], **restored["training"]}

    def close(self) -> None:
        """Waits until everything is on disk."""
        self.settle()
        self.background.shutdown()
        if manager := self.__dict__.pop("manager", None):
            manager.close()


def committed(folder: Path) -> list[int]:
    """The steps whose checkpoints are in a folder, in order."""
    names = [path.name for path in folder.glob("[0-9]*") if path.is_dir()]
    return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9]\d*", name))


def reason(error: Exception) -> str:
    """What an error says, in a line: TensorStore adds whole specifications."""
    if isinstance(error, OSError) and not error.errno:
        return str(error)  # Ours.
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
        if os.strerror(number) in str(error):
            return os.strerror(number)
    words = " ".join(str(error).split())[:300].rstrip(".")
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def synchronize(name: str) -> None:
    """Waits for the other processes, if there are any."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agree(folder: Path, error: Exception | None) -> None:
    """Has all processes find a checkpoint damaged if one of them does.

    Raises:
        DamagedCheckpointError: If there is an error here or elsewhere.
    """
    failed = np.array(error is not None)
    if jax.process_count() > 1:
        failed = multihost_utils.process_allgather(failed)
    if failed.any():
        why = "another process cannot read it" if error is None else reason(error)
        raise DamagedCheckpointError(folder, why) from error


def read_plains(folder: Path) -> dict[str, Any]:
    """All that a checkpoint holds beside its arrays, and Orbax's tables of those.

    Raises:
        DamagedCheckpointError: If something is missing, unreadable or changed.
    """
    found, problem = {}, None
    try:
        about = read_json(folder / "_CHECKPOINT_METADATA")
        for name in about["item_handlers"]:
            if not (folder / name).is_dir():
                raise FileNotFoundError(f"{name} is missing")
            file = "_METADATA" if name in ARRAYS else "metadata"
            file = "metrics" if name == "metrics" else file
            found[name] = read_json(folder / name / file)
        if missing := {"position", "config", *ARRAYS} - {*about["item_handlers"]}:
            raise FileNotFoundError(f"{', '.join(sorted(missing))} is missing")
        check_plains(found)
    except READ_ERRORS as error:
        problem = error
    agree(folder, problem)
    return found


def check_plains(found: Mapping[str, Any]) -> None:
    """Holds JSON items to what was saved; those of earlier versions have no sums.

    Raises:
        ValueError: For the first one that was changed.
    """
    if "sums" not in found:
        return
    saved = found["sums"]["sums"]
    if sums.of_json(saved) != found["sums"]["own"]:
        raise ValueError("sums was changed")
    for name in ("position", "config", "metrics"):
        # Metrics are saved only where a best checkpoint is asked for.
        if name in found and sums.of_json(found[name]) != saved[name]:
            raise ValueError(f"{name} was changed")


def read_arrays(
    folder: Path, trees: Mapping[str, Any], plains: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Items of a checkpoint, as arrays on the shardings of the shapes given.

    Args:
        folder: The checkpoint.
        trees: {item: shapes}.
        plains: What `read_plains` gives, if it is at hand.

    Raises:
        DamagedCheckpointError: If an array is not what was saved.
    """
    plains = plains or read_plains(folder)
    saved = plains.get("sums", {}).get("sums", {})
    restored, problem = {}, None
    for name, tree in trees.items():
        try:
            restored[name] = ocp.StandardCheckpointHandler().restore(
                folder / name, args=ocp.args.StandardRestore(tree)
            )
        except Exception as error:  # Whatever wrong bytes lead Orbax to.
            problem = error
            break
    agree(folder, problem)
    for name, tree in restored.items():
        if wrong := sums.unequal(saved.get(name, {}), sums.of_tree(tree)):
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise DamagedCheckpointError(folder, f"{name}/{wrong[0]} was changed{more}")
    return restored


def handlers() -> dict[str, ocp.CheckpointHandler]:
    """How each item of a checkpoint is read and written."""
    return {
        "weights": ocp.StandardCheckpointHandler(),
        "training": ocp.StandardCheckpointHandler(),
        "position": ocp.JsonCheckpointHandler(),
        "config": ocp.JsonCheckpointHandler(),
        "sums": ocp.JsonCheckpointHandler(),
    }


def split_state(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a sampler needs, and what only training needs."""
    fields = {
        name: getattr(state, name)
        for name in state.__dataclass_fields__
        if name not in ("apply_fn", "tx")
    }
    weights = ("params", "ema_params", "model_state")
    return (
        {name: fields.pop(name) for name in weights},
        fields,
    )


def metadata(
    folder: Path, names: Sequence[str] = ARRAYS, mesh: Mesh | None = None
) -> dict[str, Any]:
    """Shapes and dtypes of a checkpoint's items, as Orbax describes them there.

    Args:
        folder: The checkpoint.
        names: The items.
        mesh: Where the arrays would live, replicated; None is the first device.

    Returns:
        {item: tree of `jax.ShapeDtypeStruct`}; no array is read.

    Raises:
        DamagedCheckpointError: If they are not those that were saved, or declare more
            than the files can hold.
    """
    saved = read_plains(folder).get("sums", {}).get("sums", {})
    found, problem = {}, None
    try:
        for name in names:
            inspection.check_manifest(folder / name)
            described = ocp.StandardCheckpointHandler().metadata(folder / name)
            tree = inspection.check_arrays(described.tree, folder / name)
            kinds = {k: sums.kind(leaf) for k, leaf in sums.named_leaves(tree).items()}
            if name in saved and kinds != {k: v[:2] for k, v in saved[name].items()}:
                raise ValueError(f"names, shapes or dtypes of {name} were changed")
            found[name] = tree
    except Exception as error:  # Whatever wrong bytes lead Orbax to.
        problem = error
    agree(folder, problem)
    place = replicated(mesh or Mesh(np.array(jax.devices()[:1]), ("data",)))
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), found
    )


def load_weights(
    workdir: str | Path,
    step: int | str = "latest",
    mesh: Mesh | None = None,
    check: Callable[[int, ConfigDict, Any], None] | None = None,
) -> Weights:
    """Reads a trained run without its method, optimisers or data.

    Args:
        workdir: The run.
        step: A number, "latest", or "best" by the run's config.checkpoint.best_metric.
        mesh: Where the arrays will live, replicated; None is the first device.
        check: Called with the step, its config and the shapes and dtypes of its
            weights, before they are read; raises to refuse them.

    Raises:
        ConfigError: If the run or the step is not there, with what is; or if it cannot
            be read, declares more than its files can hold, or has weights that are not
            finite. It may come from anybody: see SECURITY.md.
        DamagedCheckpointError: If the step is not what was saved, with one that is.
    """
    folder = Path(workdir).resolve() / "checkpoints"
    if not folder.is_dir():
        raise ConfigError(f"no checkpoints in {workdir}: has train.py been run there?")
    inspection.check_files(folder)
    steps = committed(folder)
    if not steps:
        raise ConfigError(f"no finished checkpoint in {folder}")
    try:
        with reading(folder):
            step = find_step(folder, step)
            if step not in steps:
                raise ConfigError(
                    f"no checkpoint of step {step} in {folder}: there are {steps}"
                )
            return read_weights(folder / str(step), mesh, check)
    except DamagedCheckpointError as error:
        bad = error
    # The next older one first, then newer ones.
    others = sorted(set(steps) - {bad.step}, key=lambda s: (s > bad.step, -s))
    for other in others:
        with contextlib.suppress(DamagedCheckpointError):
            read_weights(folder / str(other), mesh)
            bad.reason += f"; that of step {other} is whole: --step={other}"
            break
    else:
        bad.reason += "; no other is whole"
    raise DamagedCheckpointError(folder / str(bad.step), bad.reason) from bad


def read_weights(
    folder: Path,
    mesh: Mesh | None,
    check: Callable[[int, ConfigDict, Any], None] | None = None,
) -> Weights:
    """Those of one checkpoint; see `load_weights`.

    Raises:
        DamagedCheckpointError: If they are not what was saved.
    """
    plains, step = read_plains(folder), int(folder.name)
    config = inspection.restore_config(plains["config"], folder)
    saved = metadata(folder, ["weights"], mesh)
    if check is not None:
        check(step, config, saved["weights"])
    weights = read_arrays(folder, saved, plains)["weights"]
    inspection.check_finite(weights, folder)
    return Weights(step=step, config=config, **weights)


def find_step(folder: Path, step: int | str) -> int:
    """A step's number from a number, "latest" or "best".

    Raises:
        ConfigError: If it is none of them, or nothing was measured.
        DamagedCheckpointError: If one that is looked at is damaged.
    """
    steps = committed(folder)
    if step == "latest":
        return steps[-1]
    if step != "best":
        try:
            return int(step)
        except ValueError:
            raise ConfigError(
                f"step must be a number, 'latest' or 'best', got {step!r}"
            ) from None
    found = {s: read_plains(folder / str(s)) for s in steps}
    options = found[steps[-1]]["config"]["checkpoint"]
    measured = {
        s: (plains.get("metrics") or {}).get(options["best_metric"], math.nan)
        for s, plains in found.items()
    }
    values = {s: value for s, value in measured.items() if math.isfinite(value)}
    if not values:
        raise ConfigError(
            f"no checkpoint in {folder} was measured: "
            "train with config.checkpoint.best_metric and config.eval_every"
        )
    return (min if options["best_mode"] == "min" else max)(values, key=values.get)
