"""Energy networks trained on Langevin chains that a replay buffer remembers.

Du & Mordatch, Implicit Generation and Generalization in Energy-Based Models,
arXiv:1903.08689, Alg. 1.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from genjax.config import ConfigError, call, check_count, choose, compute_dtype
from genjax.losses import energy as losses
from genjax.methods._inputs import classes, floats
from genjax.networks.energy import ConvEnergy, MLPEnergy, StridedEnergy
from genjax.samplers.langevin import langevin, score_of_energy
from genjax.types import Batch, Method, ModelState, Params, Player

NETWORKS = {"conv": ConvEnergy, "strided": StridedEnergy, "mlp": MLPEnergy}
Cond = Mapping[str, Array]
Buffer = Mapping[str, Array]  # "x" float32 [S, *shape], and maybe "label" int32 [S].


def make(config: ConfigDict) -> Method:
    """One player, "energy"; config.model holds the arguments of `igebm`."""
    return call(igebm, config.model, config, where="config.model")


def igebm(
    config: ConfigDict,
    *,
    network: Mapping[str, Any],
    num_steps: int = 60,
    step_size: float = 40.0,
    noise: float | None = 0.01,
    clip_grad: float | None = 0.005,
    buffer_size: int = 10_000,
    restart: float = 0.05,
    start_scale: float = 1.0,
    magnitude_weight: float = 1.0,
    data_noise: float = 0.0,
    conditional: bool = False,
) -> Method:
    """Lowers the energy of data and raises that of the ends of Langevin chains.

    The defaults are the authors' for CIFAR-10, whose pixels lie in [0, 1], in units of
    pixels in [-1, 1]: there the step is 10, the noise 0.005 and the clip 0.01. Such
    chains are far colder than exp(-E), for which the noise would be sqrt(2 step_size);
    with noise=None it is that, as suits points.

    A chain keeps its place in model_state["buffer"] and its label, from where it goes
    on when it is drawn again; the authors append to a queue and forget the labels.

    Args:
        config: Resolved.
        network: name, "conv", "strided" or "mlp", and the module's own fields.
        num_steps: Langevin steps in each train step, the paper's K.
        step_size: What multiplies the energy's gradient, the paper's lambda / 2.
        noise: Standard deviation added at each step; None is sqrt(2 step_size).
        clip_grad: Bound of each entry of that gradient, if any.
        buffer_size: Chains that are remembered.
        restart: Share of the drawn chains that start anew, from noise.
        start_scale: New chains start uniformly in [-start_scale, start_scale].
        magnitude_weight: The paper's alpha, of the squared energies. Where it is large
            chains can be trapped: at 1 / (2 alpha) no end is pushed up any more.
        data_noise: Standard deviation of noise on the data, against energies that get
            ever steeper around discrete grey levels (Nijkamp et al., arXiv:1903.12370).
        conditional: Whether the energy knows the label.
    """
    for name, value in dict(num_steps=num_steps, buffer_size=buffer_size).items():
        check_count(f"config.model.{name}", value)
    if not 0 <= restart <= 1:
        raise ConfigError(f"config.model.restart must be in [0, 1], got {restart}")
    if buffer_size < config.data.batch_size:
        raise ConfigError(
            "config.model.buffer_size must be at least config.data.batch_size="
            f"{config.data.batch_size}, got {buffer_size}"
        )
    num_classes = classes(config) if conditional else None
    model = EnergyModel(
        module=make_network(config, network, num_classes),
        shape=tuple(config.data.shape),
        conditional=conditional,
        chain=Chain(num_steps, step_size, noise, clip_grad, start_scale),
        buffer_size=buffer_size,
        restart=restart,
        magnitude_weight=magnitude_weight,
        data_noise=data_noise,
        walk=call(make_walk, config.sampler, num_steps, where="config.sampler"),
    )
    images = len(model.shape) == 3
    return Method(
        init=model.init,
        players=(Player("energy", ("energy",), model.loss),),
        sample=model.sample,
        energy=model.energy,
        complete=model.complete if images else None,
        denoise=model.denoise if images else None,
        cond=("label",) if conditional else (),
    )


def make_network(
    config: ConfigDict, network: Mapping[str, Any], num_classes: int | None
) -> nn.Module:
    """The energy network, tried on shapes alone.

    Raises:
        ConfigError: For unknown names, or data that the network does not fit.
    """
    where, fields = "config.model.network", dict(network)
    kind = choose(NETWORKS, fields.pop("name", None), f"{where}.name")
    norms = dict.fromkeys(("spectral", "none"))
    choose(norms, fields.get("norm", "none"), f"{where}.norm")
    fixed = dict(num_classes=num_classes, dtype=jnp.dtype(compute_dtype(config)))
    if taken := sorted(set(fields) & set(fixed)):
        raise ConfigError(f"{where} must leave {taken} out: they follow elsewhere")
    module = call(kind, {**fields, **fixed}, where=where)
    x = jax.ShapeDtypeStruct((2, *config.data.shape), jnp.float32)
    label = None if num_classes is None else jnp.zeros(2, jnp.int32)
    try:
        jax.eval_shape(
            lambda x: module.init(jax.random.key(0), x, label, train=False), x
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from None
    return module


@dataclass(frozen=True)
class Walk:
    """config.sampler: chains that are not for training.

    Attributes:
        start: Of samples: "noise", or "buffer", the chains that training left.
        num_steps: Of samples and completions.
        denoise_steps: Of descents that denoise.
    """

    start: str
    num_steps: int
    denoise_steps: int


def make_walk(
    trained_steps: int,
    *,
    start: str = "noise",
    num_steps: int | None = None,
    denoise_steps: int = 10,
) -> Walk:
    """Checks config.sampler; see `Walk`.

    Without num_steps they are 20 train steps' worth, the age at which training's chains
    start anew at the paper's rate.
    """
    choose(dict.fromkeys(("noise", "buffer")), start, "config.sampler.start")
    num_steps = 20 * trained_steps if num_steps is None else num_steps
    counts = dict(num_steps=num_steps, denoise_steps=denoise_steps)
    for name, value in counts.items():
        check_count(f"config.sampler.{name}", value)
    return Walk(start, num_steps, denoise_steps)


@dataclass(frozen=True)
class Chain:
    """How Langevin chains step and start; see `igebm` for the fields."""

    num_steps: int
    step_size: float
    noise: float | None
    clip_grad: float | None
    start_scale: float


@dataclass(frozen=True)
class EnergyModel:
    """An energy network, its chains and what can be asked of it.

    Attributes:
        module: (x [B, *shape], label [B] or None, train=) -> E(x) [B].
        shape: Of one example.
        conditional: Whether it knows the label.
        chain: Of training, and of all else but for the number of steps.
        walk: What else there is to know of the others.
        buffer_size, ...: See `igebm`.
    """

    module: nn.Module
    shape: tuple[int, ...]
    conditional: bool
    chain: Chain
    buffer_size: int
    restart: float
    magnitude_weight: float
    data_noise: float
    walk: Walk

    def init(self, key: Array, batch: Batch) -> tuple[Params, ModelState]:
        """Fresh weights, their spectral norms' vectors if any, and chains of noise."""
        net_key, buffer_key = jax.random.split(key)
        label = self.label_of(batch)
        variables = dict(self.module.init(net_key, floats(batch), label, train=False))
        params = {"energy": variables.pop("params")}
        keys = jax.random.split(buffer_key, self.buffer_size)
        buffer = self.fresh(
            keys, None if label is None else jnp.resize(label, len(keys))
        )
        state = {"energy": variables} if variables else {}
        return params, {**state, "buffer": buffer}

    def label_of(self, batch: Mapping[str, Array]) -> Array | None:
        """The labels, if the energy knows them."""
        return batch["label"] if self.conditional else None

    def fresh(self, keys: Array, label: Array | None) -> Buffer:
        """New chains."""

        def draw(key: Array) -> Array:
            # Noise number 0 of the key: the chain's own steps count from 1.
            key, scale = jax.random.fold_in(key, 0), self.chain.start_scale
            return jax.random.uniform(key, self.shape, minval=-scale, maxval=scale)

        chains = {"x": jax.vmap(draw)(keys)}
        return chains if label is None else {**chains, "label": label}

    def loss(
        self,
        params: Params,
        model_state: ModelState,
        batch: Batch,
        key: Array,
        *,
        step: Array,
        train: bool,
    ) -> tuple[Array, tuple[ModelState, dict[str, Array]]]:
        """Contrastive divergence of data and chains; no gradient runs along these."""
        data_key, fresh_key, draw_key, chain_key = jax.random.split(key, 4)
        x, label = floats(batch), self.label_of(batch)
        num, buffer = len(x), model_state["buffer"]
        fresh = self.fresh(jax.random.split(fresh_key, num), label)
        slots, start = draw(buffer, fresh, draw_key, self.restart, unique=train)
        end = dict(start)
        end["x"] = self.run(
            jax.lax.stop_gradient(params),
            model_state,
            start["x"],
            jax.random.split(chain_key, num),
            start.get("label"),
            self.chain.num_steps,
        )
        x += self.data_noise * jax.random.normal(data_key, x.shape)
        both = jnp.concatenate([x, end["x"]])
        labels = jnp.concatenate([label, end["label"]]) if self.conditional else None
        energy, changed = self.apply(params, model_state, both, labels, train=train)
        on_real, on_fake = jnp.split(energy, 2)
        values = losses.contrastive_divergence(on_real, on_fake)
        values += self.magnitude_weight * losses.magnitude(on_real, on_fake)
        if train:
            new = {name: buffer[name].at[slots].set(end[name]) for name in buffer}
            changed = {**changed, "buffer": new}
        metrics = {"real": on_real.mean(), "fake": on_fake.mean()}
        return values.mean(), (changed, metrics)

    def apply(
        self,
        params: Params,
        model_state: ModelState,
        x: Array,
        label: Array | None,
        *,
        train: bool,
    ) -> tuple[Array, dict[str, Any]]:
        """E(x) [B], and the network's entry of model_state if it changed."""
        state = model_state.get("energy", {})
        variables = {"params": params["energy"], **state}
        if not (train and state):
            return self.module.apply(variables, x, label, train=train), {}
        values, changed = self.module.apply(
            variables, x, label, train=True, mutable=list(state)
        )
        return values, {"energy": changed}

    def run(
        self,
        params: Params,
        model_state: ModelState,
        x: Array,
        keys: Array,
        label: Array | None,
        num_steps: int,
        *,
        noise: float | None = None,
        hold_fn: Callable[[Array], Array] = lambda x: x,
    ) -> Array:
        """Where chains from x [N, *shape] end; images stay in [-1, 1].

        `noise` takes the place of the chain's own, and hold_fn comes after each step.
        """
        clip = math.inf if self.chain.clip_grad is None else self.chain.clip_grad
        score_fn = score_of_energy(
            lambda x: self.apply(params, model_state, x, label, train=False)[0]
        )

        def project(x: Array) -> Array:
            return hold_fn(jnp.clip(x, -1, 1) if len(self.shape) == 3 else x)

        return langevin(
            lambda x: jnp.clip(score_fn(x), -clip, clip),
            x,
            keys,
            step_size=self.chain.step_size,
            num_steps=num_steps,
            noise=self.chain.noise if noise is None else noise,
            project_fn=project,
        )

    def sample(
        self, params: Params, model_state: ModelState, keys: Array, cond: Cond
    ) -> Array:
        """The ends of long chains from noise, or from remembered ones of the label."""
        label = self.label_of(cond)
        if self.walk.start == "noise":
            start = self.fresh(keys, label)["x"]
        else:
            start = pick(model_state["buffer"], keys, label)
        return self.run(params, model_state, start, keys, label, self.walk.num_steps)

    def energy(self, params: Params, model_state: ModelState, batch: Batch) -> Array:
        """E(x), [B]."""
        x, label = floats(batch), self.label_of(batch)
        return self.apply(params, model_state, x, label, train=False)[0]

    def complete(
        self,
        params: Params,
        model_state: ModelState,
        keys: Array,
        images: Array,
        known: Array,
        cond: Cond,
    ) -> Array:
        """Chains of the unknown pixels, from noise, beside the known ones."""
        label, known = self.label_of(cond), known[..., None]

        def hold(x: Array) -> Array:
            return jnp.where(known, images, x)

        start = hold(self.fresh(keys, label)["x"])
        steps = self.walk.num_steps
        return self.run(params, model_state, start, keys, label, steps, hold_fn=hold)

    def denoise(
        self,
        params: Params,
        model_state: ModelState,
        keys: Array,
        images: Array,
        cond: Cond,
    ) -> Array:
        """Descends the energy, without noise."""
        label, steps = self.label_of(cond), self.walk.denoise_steps
        return self.run(params, model_state, images, keys, label, steps, noise=0.0)


def draw(
    buffer: Buffer, fresh: Buffer, key: Array, restart: float, *, unique: bool
) -> tuple[Array, Buffer]:
    """Chains to go on with, some of which start anew.

    Args:
        buffer: Remembered chains, {name: [S, ...]}.
        fresh: New ones, {name: [B, ...]}.
        key: PRNG key.
        restart: Chance of each to be a new one.
        unique: Whether all are different ones, for which B must not be above S.

    Returns:
        Their places in the buffer, int [B], and the chains {name: [B, ...]}.
    """
    slot_key, restart_key = jax.random.split(key)
    size, num = len(buffer["x"]), len(fresh["x"])
    slots = jax.random.choice(slot_key, size, (num,), replace=not unique)
    anew = jax.random.bernoulli(restart_key, restart, (num,))

    def start(old: Array, new: Array) -> Array:
        return jnp.where(anew.reshape(-1, *[1] * (new.ndim - 1)), new, old[slots])

    return slots, {name: start(buffer[name], fresh[name]) for name in buffer}


def pick(buffer: Buffer, keys: Array, label: Array | None) -> Array:
    """A remembered chain for each key [N], of its label [N] where there are labels.

    The buffer's first stands in for a label that no chain has.
    """

    def one(key: Array, label: Array | None) -> Array:
        allowed = True if label is None else buffer["label"] == label
        logits = jnp.where(allowed, jnp.zeros(len(buffer["x"])), -jnp.inf)
        return jax.random.categorical(jax.random.fold_in(key, 0), logits)

    return buffer["x"][jax.vmap(one)(keys, label)]
