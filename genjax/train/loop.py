"""The one training loop: phases, resuming, logging, stopping."""

import contextlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from genjax.config import ConfigError, nearest
from genjax.data import DataError
from genjax.train import evaluation, quality, restore, sharding
from genjax.train.checkpoints import Checkpoints
from genjax.train.feed import Feed
from genjax.train.memory import WHAT_SAVES_MEMORY, Heap, is_exhausted
from genjax.train.phases import (
    Phase,
    build,
    check_alike,
    check_shapes,
    example,
    start_state,
)
from genjax.train.sampling import make_cond, make_draw
from genjax.train.state import TrainState
from genjax.train.step import all_finite
from genjax.train.stopping import StoppedError, StopRequest, nothing
from genjax.train.workdir import changed, claim, hold, locate
from genjax.train.writers import Terminal, Writer, say
from genjax.types import Metrics

MAX_IN_FLIGHT = 3  # Steps given to the device before the host waits for one.
DIRECTLY = contextlib.nullcontext()


class TrainingDivergedError(RuntimeError):
    """Too many steps in a row were not finite."""


class OutOfMemoryError(RuntimeError):
    """A device's memory does not suffice."""


def train(
    config: ConfigDict,
    workdir: str | Path,
    stop: StopRequest | None = None,
    *,
    partial: bool = False,
) -> bool:
    """Trains, or goes on training, as the config says.

    Args:
        config: From a recipe.
        workdir: The run's folder; made if absent, resumed if it holds this config.
        stop: What a command has entered before; None hears signals while this runs.
        partial: Resume although it holds another config, with those arrays that fit.

    Returns:
        True when every step is done, False when a signal stopped it (all is saved).

    Raises:
        ConfigError: Before any compilation, if something cannot work.
        TrainingDivergedError: After config.max_bad_steps non-finite steps in a row.
        OutOfMemoryError: If a device has too little; what was saved is whole.
        CheckpointError: If the last checkpoint could not be written.
    """
    processes = jax.process_count()
    own = StopRequest(processes=processes) if stop is None else None
    with own or contextlib.nullcontext(stop) as stop:
        stop.join(processes)
        with hold(workdir) as release:
            return train_held(config, workdir, stop, release, partial)


def train_held(
    config: ConfigDict,
    workdir: str | Path,
    stop: StopRequest,
    release: Callable[[], None],
    partial: bool,
) -> bool:
    """`train` in a folder that no other run uses until `release` is called."""
    stages = build(config)
    for phase in stages:
        check_shapes(phase)
    given, workdir = workdir, locate(workdir)
    check_alike(stages)
    checkpoints = Checkpoints(workdir, config.checkpoint)
    allow = restore.judge(checkpoints, stages, partial)
    changed(workdir, stages[0].config, allow)  # Before what may train a judge.
    for phase in stages:
        check_evaluation(phase)
    claim(workdir, stages[0].config, allow)

    def take(step: int, index: int) -> TrainState:
        if index >= len(stages):
            raise ConfigError(
                f"step {step} of {workdir} is of phase {index}, counted from 0, but "
                f"config.phases has {len(stages)}"
            )
        return restore.resume(checkpoints, step, stages[index], partial=partial)

    writer = None

    def close() -> None:
        checkpoints.close()
        if writer is not None:
            writer.close()
        release()

    def leave() -> None:
        checkpoints.finish()
        close()

    stop.before_leaving = leave
    try:
        latest, position, state = checkpoints.resume(take) or (None, None, None)
        if latest is not None and latest >= stages[-1].end:
            say(f"Already finished: {workdir} is at step {latest}.")
            return True
        writer = Writer(workdir)
        for phase in stages[position["phase"] if position else 0 :]:
            with stop.aside():
                if position and position["phase"] == phase.index:
                    say(f"Resuming {workdir} from step {latest}.")
                    batches = phase.batches()
                    go_on(batches, position["data"], phase)
                else:
                    state = start_state(phase, previous=state)
                    batches = phase.batches()
                runner = Runner(phase, checkpoints, writer, stop)
            state, finished = runner.run(state, batches)
            if not finished:
                checkpoints.finish()
                return False
        checkpoints.finish()
    except StoppedError:  # Before a phase, or its first step.
        return False
    except jax.errors.JaxRuntimeError as error:
        if not is_exhausted(error):
            raise
        checkpoints.settle()
        saved = checkpoints.latest_step()
        kept = "nothing was saved yet" if saved is None else f"step {saved} is saved"
        first = str(error).splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")
        raise OutOfMemoryError(
            f"a device's memory does not suffice: {first.rstrip('.')}; {kept}. Take "
            + WHAT_SAVES_MEMORY
        ) from None
    finally:
        close()
    say(f"Finished: {workdir} is at step {stages[-1].end}.")
    if stages[-1].method.sample is not None:
        drawn = workdir / "samples"
        say(
            (f"Samples: {drawn}. To draw more:\n" if drawn.is_dir() else "To sample:\n")
            + f"  python sample.py --workdir={shlex.quote(str(given))} --num=100"
        )
    return True


def check_evaluation(phase: Phase) -> None:
    """Looks for config.checkpoint.best_metric among what the phase will measure.

    Raises:
        ConfigError: If it is not there, with what is, or if too little is measured.
    """
    config, dataset = phase.config, phase.dataset
    on_split = config.eval_every and dataset.test is not None
    on_samples = config.eval_every and config.eval_samples
    if on_split:
        num = min(config.eval_examples, len(dataset.test))
        evaluation.check_size(num, phase.mesh)
    if on_samples and (phase.method.sample is None or config.eval_samples < 2):
        raise ConfigError(
            "config.eval_samples must be 0, or at least 2 with a method that samples: "
            f"got {config.eval_samples} with {config.method!r}"
        )
    if on_samples:
        evaluation.sample_measures(dataset)
    judge = quality.from_config(config, dataset, phase.mesh)
    best, names = config.checkpoint.best_metric, []
    if not best:
        return
    if on_split:
        losses = evaluation.make_losses(phase.method, phase.mesh)
        state, (key, batch) = phase.state, example(phase)
        shapes = jax.eval_shape(losses, state.params, state.model_state, batch, key)
        names += [f"test/{name}" for name in shapes]
    if on_samples:
        names += [f"samples/{n}" for n in evaluation.sample_measures(dataset, judge)]
    if best not in names:
        raise ConfigError(
            f"config.checkpoint.best_metric={best!r} is not measured"
            f"{nearest(best, names)} With config.eval_every={config.eval_every} and "
            f"config.eval_samples={config.eval_samples} there are: {names}"
        )


class Runner:
    """The steps of one phase."""

    def __init__(
        self, phase: Phase, checkpoints: Checkpoints, writer: Writer, stop: StopRequest
    ):
        """Makes the functions that the loop calls; they compile when first called."""
        self.phase, self.checkpoints, self.writer = phase, checkpoints, writer
        self.stop, self.kept = stop, 0  # The step of what a signal had saved.
        self.step, self.final = 0, False
        self.config = phase.config
        self.draw = self.losses = None
        self.judge = quality.from_config(phase.config, phase.dataset, phase.mesh)
        self.finite = jax.jit(all_finite)
        self.heap = Heap()
        self.bad: list[tuple[int, np.ndarray]] = []  # Bad steps in a row, and examples.
        self.bad_before = 0  # Such steps before the run was resumed.
        if phase.method.sample is not None:
            self.draw = make_draw(
                phase.method, phase.mesh, self.config.num_samples, self.ask
            )
        if phase.dataset.test is not None:
            self.losses = self.asking(evaluation.make_losses(phase.method, phase.mesh))

    def run(self, state: TrainState, batches: Iterator[Any]) -> tuple[TrainState, bool]:
        """Trains from `state.step` to the end of the phase, or to a stop request.

        Returns:
            The state, and whether the end was reached.
        """
        step, config, stop = int(state.step), self.config, self.stop
        begun = self.kept = step
        self.bad_before = int(state.bad_steps)
        if not self.phase.method.players:  # It can only sample: keep what it was given.
            self.at_intervals(state, step, batches, nothing, last=True)
            return state, True
        train_step = self.phase.train_step
        key = jax.random.fold_in(self.phase.key(), 1)
        with stop.aside():
            feed = Feed(batches, sharding.split(self.phase.mesh, 1))
        window: list[Metrics] = []
        seen: list[tuple[int, np.ndarray]] = []
        since, stopped = time.monotonic(), False
        position = feed.get_state()

        def keep() -> None:
            """Logs and saves what is there between two steps, once."""
            if step > self.kept:
                if window:
                    self.log(step, window, seen, since, state, bar)
                self.save(state, step, position)
                self.kept = step

        with progress_bar(self.phase, step) as bar:
            self.heap.keep()
            try:
                while step < self.phase.end and not stopped:
                    with stop.aside(keep):
                        batch, index = next(feed)
                    seen.append((step, index))
                    with stop.aside() if step == begun else DIRECTLY:  # It compiles.
                        state, metrics = train_step(state, batch, key)
                    stop.started()
                    window.append(metrics)
                    step, position = step + 1, feed.get_state()
                    # Not a transfer: the device still has the next steps queued.
                    jax.block_until_ready(window[-MAX_IN_FLIGHT:][0])
                    self.heap.check()
                    bar.update()
                    stopped = stop.seen(step)
                    last = stopped or step == self.phase.end
                    if last or step % config.log_every == 0:
                        self.log(step, window, seen, since, state, bar)
                        window, seen, since = [], [], time.monotonic()
                    pause = time.monotonic()
                    self.at_intervals(state, step, feed, keep, last=last)
                    since += time.monotonic() - pause  # Throughput is that of training.
            except StoppedError:
                keep()
            except DataError:
                # Of several processes the others may read theirs, and save nothing.
                if not stop.together:
                    keep()
                    say(f"The data cannot be read: step {step} is saved.")
                raise
            finally:
                self.heap.release()
        return state, step == self.phase.end

    def log(
        self,
        step: int,
        window: list[Metrics],
        seen: list[tuple[int, np.ndarray]],
        since: float,
        state: TrainState,
        bar: tqdm,
    ) -> None:
        """Fetches what was measured since the last line, and writes its means.

        Raises:
            TrainingDivergedError: If too many steps in a row were bad.
        """
        rows, skipped = jax.device_get((window, state.skipped))
        diverged: list[tuple[int, np.ndarray]] = []
        for entry, row in zip(seen, rows, strict=True):
            self.bad = [*self.bad, entry] if row["bad"] else []
            self.bad_before = self.bad_before if row["bad"] else 0
            if self.bad_before + len(self.bad) >= self.config.max_bad_steps:
                diverged = self.bad
        good = [row for row in rows if not row["bad"]]
        means = {
            name: float(np.mean([r[name] for r in good])) for name in rows[0] if good
        }
        means.pop("bad", None)
        images = len(rows) * self.config.data.batch_size * self.phase.rows()
        images //= self.config.accumulate
        means["images_per_second"] = images / (time.monotonic() - since)
        means["skipped_steps"] = float(skipped)
        if hasattr(self.phase.dataset.train, "skipped"):
            means["skipped_examples"] = float(self.phase.dataset.train.skipped)
        self.writer.scalars(step, means)
        shown = {k.split("/")[0]: v for k, v in means.items() if k.endswith("/loss")}
        bar.set_postfix(
            {name: f"{value:.4f}" for name, value in shown.items()},
            images_per_s=f"{means['images_per_second']:.0f}",
            refresh=False,
        )
        if diverged:
            origin, (first, index) = self.phase.dataset.train.origin, diverged[0]
            raise TrainingDivergedError(
                f"{self.config.max_bad_steps} or more steps in a row had a non-finite "
                "loss, gradient or model state (config.max_bad_steps). Their updates "
                "were skipped; the last checkpoint is of step "
                f"{self.checkpoints.latest_step()}. The first was step {first}, on "
                f"{', '.join(map(origin, np.ravel(index)[:16]))} ... A lower "
                "learning_rate, clip_norm or dtype='float32' may help; --partial goes "
                "on with such a change"
            )

    def at_intervals(
        self,
        state: TrainState,
        step: int,
        batches: Any,
        keep: Callable[[], None],
        *,
        last: bool,
    ) -> None:
        """Evaluates, saves and draws, each in its own rhythm and at the end.

        `last` says that no step follows, be it for the end or for a signal. A signal
        gives an evaluation or samples up, and they are not made up for, except the
        last: these it makes wait only until `keep` has saved.

        Raises:
            StoppedError: If a signal came; then the state is still to be saved.
        """
        config, metrics = self.config, None
        self.step, self.final = step, step == self.phase.end
        final = self.final
        if config.eval_every and (final or step % config.eval_every == 0):
            with self.stop.aside(keep, leaves=not final), self.heap.aside():
                metrics = self.evaluate(state, step)
        if last or metrics or step % config.checkpoint.every == 0:
            self.save(state, step, batches.get_state(), metrics)
        if config.sample_every and (final or step % config.sample_every == 0):
            with self.stop.aside(keep, leaves=not final), self.heap.aside():
                self.sample(state, step)

    def ask(self) -> None:
        """Asks between the batches of an evaluation, or of samples, in a cluster.

        Raises:
            StoppedError: If all processes are to stop here.
        """
        if self.stop.together and not self.final and self.stop.seen(self.step):
            raise StoppedError

    def asking(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with `ask` before each call."""

        def asked(*args: Any) -> Any:
            self.ask()
            return fn(*args)

        return asked

    def evaluate(self, state: TrainState, step: int) -> dict[str, float]:
        """The players' losses on the test split, and what samples are like.

        Both with the averaged weights.
        """
        config, metrics = self.config, {}
        if self.losses:
            found = evaluation.values_over_split(
                self.losses,
                {**state.params, **state.ema_params},
                state.model_state,
                self.phase.dataset.test,
                mesh=self.phase.mesh,
                batch_size=config.data.batch_size,
                num_examples=config.eval_examples,
                seed=config.seed,
            )
            for name, entry in found.items():
                metrics[f"test/{name}"] = evaluation.summary(*entry)["value"]
        if config.eval_samples:
            samples = self.samples(state, config.eval_samples)
            try:
                found = evaluation.of_samples(samples, self.phase.dataset, self.judge)
                metrics |= {name: entry["value"] for name, entry in found.items()}
            except ConfigError as error:  # Broken samples end no training.
                say(f"warning: at step {step} {error}")
                names = evaluation.sample_measures(self.phase.dataset, self.judge)
                metrics |= {f"samples/{name}": np.nan for name in names}
        self.writer.scalars(step, metrics)
        return metrics

    def save(
        self, state: TrainState, step: int, position: Any, metrics: Any = None
    ) -> None:
        """A checkpoint, written in the background.

        Raises:
            TrainingDivergedError: If a number of the state is not finite; then nothing
                is written.
        """
        if not self.finite(state):
            raise TrainingDivergedError(
                f"at step {step} a weight, average, moment or the model state is not "
                "finite, so that was not saved: the last checkpoint is of step "
                f"{self.checkpoints.latest_step()}. A lower learning_rate or clip_norm "
                "may help; --partial goes on with such a change"
            )
        self.checkpoints.save(
            state,
            step,
            config=self.config,
            phase=self.phase.index,
            data={**position, "examples": len(self.phase.dataset.train)},
            metrics=metrics,
        )

    def samples(self, state: TrainState, num: int) -> np.ndarray:
        """Drawn with the averaged weights, from the same noise every time."""
        return self.draw(
            {**state.params, **state.ema_params},
            state.model_state,
            seed=self.config.seed,
            num=num,
            cond=make_cond(self.phase.method, self.config, num),
        )

    def sample(self, state: TrainState, step: int) -> None:
        """A grid of samples."""
        if self.draw is not None:
            self.writer.grid(step, self.samples(state, self.config.num_samples))


def go_on(batches: Any, position: dict[str, Any], phase: Phase) -> None:
    """Puts the batches where a checkpoint says, and says if their data has changed."""
    order = dict(position)
    before, now = order.pop("examples", None), len(phase.dataset.train)
    if before not in (None, now):
        say(
            f"{phase.config.data.name} has {now} examples to train on, where it had "
            f"{before} when the run was saved: from here on their order is another"
        )
    batches.set_state(order)


def progress_bar(phase: Phase, step: int) -> tqdm:
    """Steps, time left, loss and images per second."""
    return tqdm(
        total=phase.end,
        initial=step,
        desc=phase.config.method,
        unit="step",
        file=Terminal(sys.stderr),
        mininterval=0.5 if sys.stderr.isatty() else 20,
        dynamic_ncols=True,
        disable=jax.process_index() != 0,
    )
