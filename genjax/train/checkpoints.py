"""Orbax checkpoints: one step folder holds weights, optimisers, position and config."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    BestN,
    EveryNSteps,
    LatestN,
)

from genjax.config import ConfigError, from_plain, plain
from genjax.train.sharding import replicated
from genjax.train.state import TrainState


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


class Checkpoints:
    """The folder `<workdir>/checkpoints`, written in the background."""

    def __init__(self, workdir: str | Path, options: ConfigDict):
        """Opens or makes the folder; `options` is config.checkpoint."""
        self.options = options
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
        self.manager = ocp.CheckpointManager(
            Path(workdir).resolve() / "checkpoints",
            options=ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy(keep),
                best_fn=best_fn,  # Has the metrics saved.
                cleanup_tmp_directories=True,
            ),
            item_handlers=handlers(),
        )

    def latest_step(self) -> int | None:
        """The newest step saved, or None."""
        return self.manager.latest_step()

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
        """Starts writing; returns once the device arrays are copied."""
        if step == self.manager.latest_step():
            return
        weights, training = split_state(state)
        self.manager.save(
            step,
            args=ocp.args.Composite(
                weights=ocp.args.StandardSave(weights),
                training=ocp.args.StandardSave(training),
                position=ocp.args.JsonSave({"phase": phase, "data": data}),
                config=ocp.args.JsonSave(plain(config)),
            ),
            metrics=dict(metrics) if metrics else None,
        )

    def position(self, step: int) -> dict[str, Any]:
        """{"phase": index, "data": the iterator's state} as saved with `step`."""
        args = ocp.args.Composite(position=ocp.args.JsonRestore())
        return self.manager.restore(step, args=args)["position"]

    def metadata(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Shapes and dtypes of `step`, split as by `split_state`; no array is read."""
        items = self.manager.item_metadata(step)
        return items["weights"].tree, items["training"].tree

    def restore(self, step: int, abstract: TrainState) -> TrainState:
        """The state of `step`, on the shardings that `abstract` names."""
        return abstract.replace(**self.read(step, *split_state(abstract)))

    def read(self, step: int, weights: Any, training: Any) -> dict[str, Any]:
        """The arrays of `step`, of the structures and on the shardings of the two."""
        restored = self.manager.restore(
            step,
            args=ocp.args.Composite(
                weights=ocp.args.StandardRestore(weights),
                training=ocp.args.StandardRestore(training),
            ),
        )
        return {**restored["weights"], **restored["training"]}

    def close(self) -> None:
        """Waits until everything is on disk."""
        self.manager.wait_until_finished()
        self.manager.close()


def handlers() -> dict[str, ocp.CheckpointHandler]:
    """How each item of a checkpoint is read and written."""
    return {
        "weights": ocp.StandardCheckpointHandler(),
        "training": ocp.StandardCheckpointHandler(),
        "position": ocp.JsonCheckpointHandler(),
        "config": ocp.JsonCheckpointHandler(),
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
        ConfigError: If the run or the step is not there, with what is.
    """
    folder = Path(workdir).resolve() / "checkpoints"
    if not folder.is_dir():
        raise ConfigError(f"no checkpoints in {workdir}: has train.py been run there?")
    options = ocp.CheckpointManagerOptions(read_only=True)
    with ocp.CheckpointManager(
        folder, options=options, item_handlers=handlers()
    ) as manager:
        steps = manager.all_steps()
        if not steps:
            raise ConfigError(f"no finished checkpoint in {folder}")
        step = find_step(manager, step)
        if step not in steps:
            raise ConfigError(
                f"no checkpoint of step {step} in {folder}: there are {steps}"
            )
        config = from_plain(restore_json(manager, step, "config"))
        saved = manager.item_metadata(step)["weights"].tree
        if check is not None:
            check(step, config, saved)
        place = replicated(mesh or Mesh(np.array(jax.devices()[:1]), ("data",)))
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
            saved,
        )
        weights = manager.restore(
            step, args=ocp.args.Composite(weights=ocp.args.StandardRestore(abstract))
        )["weights"]
    return Weights(step=step, config=config, **weights)


def restore_json(manager: ocp.CheckpointManager, step: int, name: str) -> Any:
    """One JSON item of a checkpoint."""
    args = ocp.args.Composite(**{name: ocp.args.JsonRestore()})
    return manager.restore(step, args=args)[name]


def find_step(manager: ocp.CheckpointManager, step: int | str) -> int:
    """A step's number from a number, "latest" or "best"."""
    if step == "latest":
        return manager.latest_step()
    if step != "best":
        try:
            return int(step)
        except ValueError:
            raise ConfigError(
                f"step must be a number, 'latest' or 'best', got {step!r}"
            ) from None
    options = restore_json(manager, manager.latest_step(), "config")["checkpoint"]
    name = options["best_metric"]
    measured = {s: manager.metrics(s) or {} for s in manager.all_steps()}
    values = {
        s: metrics[name]
        for s, metrics in measured.items()
        if math.isfinite(metrics.get(name, math.nan))
    }
    if not values:
        raise ConfigError(
            f"no checkpoint in {manager.directory} was measured: "
            "train with config.checkpoint.best_metric and config.eval_every"
        )
    return (min if options["best_mode"] == "min" else max)(values, key=values.get)
