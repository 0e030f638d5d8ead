"""The stages of a run: each is checked as a whole before anything compiles."""

import contextlib
import functools
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jax.tree_util import keystr, tree_leaves_with_path
from ml_collections import ConfigDict

from genjax import data, methods
from genjax.config import ConfigError, call, check, explained, phases
from genjax.networks.rematerialisation import recomputed_blocks
from genjax.placement import examples_over
from genjax.train import evaluation, optimizers, sharding
from genjax.train.checkpoints import load_weights
from genjax.train.memory import check_memory
from genjax.train.state import TrainState, carry_over, check_names, create
from genjax.train.step import make_train_step
from genjax.train.workdir import listed
from genjax.train.writers import say
from genjax.types import Batch, Method, Metrics


@dataclass(frozen=True)
class Phase:
    """One stage of training, built and checked, nothing compiled yet.

    Attributes:
        index: Its place in config.phases.
        start: First step, counted over the whole run.
        end: Step at which it is over.
        config: Its resolved config.
        dataset: Its data.
        method: Made from the config.
        optimizers: {player: optax optimiser}.
        rates: {player: learning rate schedule}.
        mesh: The devices.
    """

    index: int
    start: int
    end: int
    config: ConfigDict
    dataset: data.Dataset
    method: Method
    optimizers: Mapping[str, Any]
    rates: Mapping[str, Any]
    mesh: Mesh

    @functools.cached_property
    def state(self) -> TrainState:
        """See `abstract_state`."""
        return abstract_state(self)

    @functools.cached_property
    def train_step(self) -> Callable[[TrainState, Batch, Array], tuple]:
        """See `jit_train_step`."""
        return jit_train_step(self, self.state)

    def rows(self) -> int:
        """Micro-batches in one train step."""
        steps = max((player.steps for player in self.method.players), default=1)
        return steps * self.config.accumulate

    def key(self) -> Array:
        """The random key of the phase."""
        return jax.random.fold_in(jax.random.key(self.config.seed), self.index)

    def batches(self) -> Iterator[dict[str, np.ndarray]]:
        """This process's rows of [rows, B / accumulate, ...], from the first on."""
        options = self.config.data
        return data.batches(
            self.dataset.train,
            batch_size=options.batch_size // self.config.accumulate,
            num_micro=self.rows(),
            seed=self.config.seed + self.index,
            random_flip=options.random_flip,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            num_threads=options.num_threads,
        )


def resolve(config: ConfigDict) -> tuple[ConfigDict, data.Dataset]:
    """Fills in what the data decides: the shape of an example, the classes."""
    config = config.copy_and_resolve_references()
    dataset = data.load(config.data)
    config.data.shape, config.data.num_classes = dataset.shape, dataset.num_classes
    return config, dataset


def build(
    config: ConfigDict, devices: Sequence[jax.Device] | None = None
) -> list[Phase]:
    """Checks everything that can be checked without compiling, for every phase.

    Args:
        config: From a recipe.
        devices: To train on; by default all that there are.

    Raises:
        ConfigError: At the first thing that cannot work.
    """
    with explained("config"):
        return list(_built(config, devices))


def _built(config: ConfigDict, devices: Sequence[jax.Device] | None) -> Iterator[Phase]:
    """The phases, each once it is checked."""
    start = 0
    for index, phase in enumerate(phases(config)):
        check(phase)
        phase, dataset = resolve(phase)
        mesh = sharding.make_mesh(phase, devices)
        sharding.check_batch(phase, mesh)
        sharding.check_rules(phase.sharding_rules, mesh)
        method = methods.load(phase)
        check_names(method, phase)
        if method.players and not phase.num_steps:
            raise ConfigError("config.num_steps must be at least 1 to train, got 0")
        if index and not method.players:
            raise ConfigError(
                f"phase {index} of config.phases trains nothing ({phase.method!r}): "
                "give it a workdir of its own, with this one in config.init_from"
            )
        evaluation.check_likelihood(method, phase.likelihood)
        sources_of(phase)
        made = {
            player.name: call(
                optimizers.make,
                phase.optimizers[player.name],
                phase.num_steps * player.steps,
                where=f"config.optimizers.{player.name}",
            )
            for player in method.players
        }
        end = start + (phase.num_steps if method.players else 0)
        yield Phase(
            index=index,
            start=start,
            end=end,
            config=phase,
            dataset=dataset,
            method=method,
            optimizers={name: tx for name, (tx, _) in made.items()},
            rates={name: rate for name, (_, rate) in made.items()},
            mesh=mesh,
        )
        start = end


def check_shapes(phase: Phase) -> None:
    """Traces the initial state and a train step: nothing is compiled or allocated.

    The trace of the step is the one that the loop compiles.

    Raises:
        ConfigError: If the config breaks shapes, or asks for more than there is memory.
    """
    with explained("config.model"):
        state, batch = phase.state, abstract_batch(phase)
    check_memory(phase.mesh, (state, batch), phase.config)
    if phase.method.players:
        with explained("a train step by config.model and config.optimizers"):
            phase.train_step.eval_shape(state, batch, jax.eval_shape(phase.key))


def check_alike(stages: Sequence[Phase]) -> None:
    """Compares what each process found of the data; all of them are to call it.

    Raises:
        ConfigError: On all processes, unless the same examples are in the same places.
    """
    if jax.process_count() == 1:
        return
    own = []
    for phase in stages:
        train, test = phase.dataset.train, phase.dataset.test or ()
        names = "\n".join(map(train.origin, range(len(train))))
        crc = zlib.crc32(names.encode(errors="surrogateescape")) >> 1  # Fits int32.
        own.append((len(train), len(test), math.prod(phase.dataset.shape), crc))
    everyone = multihost_utils.process_allgather(np.array(own, np.int32))
    for phase, found in zip(stages, np.moveaxis(everyone, 1, 0), strict=True):
        if (found != found[0]).any():
            counts = ", ".join(f"{row[0]} and {row[1]}" for row in found[:8])
            raise ConfigError(
                f"the processes found different data in {phase.config.data.name}: "
                f"{counts} examples to train on and to test. Each must see the same "
                "files, all of which it can read"
            )


@dataclass(frozen=True)
class Source:
    """An entry of config.init_from: a trained run to start from.

    Attributes:
        workdir: The run.
        step: Of its checkpoint: a number, "latest" or "best".
        rename: {network here: network there}; None pairs equal names.
    """

    workdir: str
    step: int | str = "latest"
    rename: Mapping[str, str] | None = None


def sources_of(config: ConfigDict) -> list[Source]:
    """The runs that config.init_from names.

    Raises:
        ConfigError: If an entry has an unknown field, or its run is not there.
    """
    sources = [call(Source, e, where="config.init_from") for e in config.init_from]
    for source in sources:
        if not list(Path(source.workdir).glob("checkpoints/[0-9]*")):
            raise ConfigError(
                f"config.init_from names the run {source.workdir!r}, which has no "
                "checkpoint: train it first, or name another workdir"
            )
    return sources


def abstract_batch(phase: Phase) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and shardings of what a train step takes: [rows, B, ...]."""
    one = data.gather(phase.dataset.train, np.zeros(1, int))
    size = phase.config.data.batch_size // phase.config.accumulate
    place = sharding.split(phase.mesh, 1)
    return {
        k: jax.ShapeDtypeStruct(
            (phase.rows(), size, *v.shape[1:]), v.dtype, sharding=place
        )
        for k, v in one.items()
    }


def abstract_state(phase: Phase) -> TrainState:
    """Shapes, dtypes and shardings of the phase's state; nothing is computed."""
    batch = {
        k: jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
        for k, x in abstract_batch(phase).items()
    }
    shapes = jax.eval_shape(
        lambda key, batch: initial(phase, key, batch), phase.key(), batch
    )
    places = sharding.state_shardings(shapes, phase.mesh, phase.config.sharding_rules)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, places
    )


def jit_train_step(
    phase: Phase, state: TrainState
) -> Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]:
    """The jitted train step; the old state's buffers are given to the new one.

    Args:
        phase: Whose method is trained.
        state: Arrays or shapes, of whom the shardings are read.
    """
    step = make_train_step(phase.method, phase.optimizers, phase.rates, phase.config)
    places = jax.tree.map(lambda x: x.sharding, state)
    whole = sharding.replicated(phase.mesh)

    recomputed = recomputed_blocks if phase.config.remat else contextlib.nullcontext

    def train_step(
        state: TrainState, batches: Batch, key: Array
    ) -> tuple[TrainState, Metrics]:
        with examples_over(sharding.split(phase.mesh, 0)), recomputed() as blocks:
            result = step(state, batches, key)
        if blocks == []:
            raise ConfigError(
                "config.remat=True finds nothing to compute again: "
                f"{phase.config.method} has no network of blocks here. To save memory "
                "raise config.accumulate"
            )
        return result

    return jax.jit(
        train_step,
        in_shardings=(places, sharding.split(phase.mesh, 1), whole),
        out_shardings=(places, whole),
        donate_argnums=0,
    )


def initial(phase: Phase, key: Array, batch: Mapping[str, Array]) -> TrainState:
    """The state before anything is carried over into it."""
    networks = phase.config.ema.networks
    return create(phase.method, phase.optimizers, networks, key, batch)


def example(phase: Phase) -> tuple[Array, dict[str, Array]]:
    """The phase's initial key and its first micro-batch, spread over the devices."""
    batch = {k: v[0] for k, v in next(phase.batches()).items() if k != "index"}
    key = jax.random.fold_in(phase.key(), 0)
    return key, sharding.to_global(batch, sharding.split(phase.mesh, 0))


def start_state(phase: Phase, previous: TrainState | None) -> TrainState:
    """A fresh state, with what config.init_from and `previous` bring.

    Where both have a network or an entry of model_state, the earlier phase's counts.

    Raises:
        ConfigError: If an array of a frozen network, or of what belongs to it in the
            model state, would stay as it was drawn; or if a run of config.init_from
            has nothing that fits.
    """
    places = jax.tree.map(lambda x: x.sharding, abstract_state(phase))
    init = jax.jit(
        lambda key, batch: initial(phase, key, batch),
        out_shardings=places,
        # It runs once: compiling it well would take longer than it saves.
        compiler_options={"xla_backend_optimization_level": 0},
    )
    state = init(*example(phase))
    sources = []
    for source in sources_of(phase.config):
        weights = load_weights(source.workdir, source.step, phase.mesh)
        average = weights.averaged()
        sources.append(
            (average, average, weights.model_state, source.rename, source.workdir)
        )
    if previous is not None:
        state = state.replace(step=previous.step)
        sources.append(
            ({**previous.params}, previous.ema_params, previous.model_state, None, "")
        )
    owned = {name for player in phase.method.players for name in player.networks}
    frozen = {name: net for name, net in state.params.items() if name not in owned}
    frozen_state = {name: state.model_state[name] for name in phase.method.frozen}
    fresh, fresh_state = (
        {keystr(path) for path, _ in tree_leaves_with_path(tree)}
        for tree in (frozen, frozen_state)
    )
    for params, ema, model_state, rename, workdir in sources:
        new, copied, kept = carry_over(state.params, params, rename)
        names = f":\n{listed(kept)}" if kept else "."
        say(f"Carried {len(copied)} arrays over; {len(kept)} stay as they were{names}")
        entries, copied_state, _ = carry_over(state.model_state, model_state, rename)
        if workdir and not copied and not copied_state:
            raise ConfigError(
                f"config.init_from names the run {workdir!r}, which brings nothing: "
                f"none of its arrays has a name and shape of {phase.config.method!r}"
            )
        fresh, fresh_state = fresh - set(copied), fresh_state - set(copied_state)
        state = state.replace(
            params=new,
            ema_params=carry_over(state.ema_params, {**params, **ema}, rename)[0],
            model_state=entries,
        )
    if missing := sorted(fresh) + sorted(fresh_state):
        raise ConfigError(
            f"no player trains {len(missing)} arrays, among them {missing[0]}, and "
            f"neither an earlier phase nor config.init_from={phase.config.init_from} "
            "has arrays of the same name and shape for them"
        )
    return state
