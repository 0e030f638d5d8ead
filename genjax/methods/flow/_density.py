"""What flows share: the space they see the data in, the prior, and the contract."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from genjax.config import ConfigError, call, choose, compute_dtype
from genjax.losses import dequantization as losses
from genjax.losses.likelihood import bits_per_dim
from genjax.losses.variational import gaussian_log_prob
from genjax.methods import _inputs
from genjax.networks.dequantizer import Dequantizer
from genjax.networks.flow import sum_dims
from genjax.networks.flow_nets import ON_IMAGES, ON_VECTORS
from genjax.networks.layers import activation
from genjax.types import Batch, Method, ModelState, Params, Player

TRANSFORMS = ("logit", "centre")


@dataclass(frozen=True)
class Space:
    """The continuous space in which a flow sees images [0, 1], or points as they are.

    Attributes:
        shape: Of one example.
        transform: Of images: "logit", or "centre" to [-0.5, 0.5].
        alpha: How far the logit stays from 0 and 1.
        flat: Whether the flow sees vectors [B, D].
    """

    shape: tuple[int, ...]
    transform: str = "logit"
    alpha: float = 0.05
    flat: bool = False

    @property
    def images(self) -> bool:
        """Whether examples are images rather than points."""
        return len(self.shape) == 3

    @property
    def num_dims(self) -> int:
        """D."""
        return math.prod(self.shape)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of one example's latents."""
        return (self.num_dims,) if self.flat else self.shape

    def forward(self, x: Array) -> tuple[Array, Array]:
        """x [B, *shape] -> (what the flow sees, log_det [B])."""
        log_det = jnp.zeros(len(x))
        if self.images and self.transform == "logit":
            x, log_det = losses.logit(x, self.alpha)
        elif self.images:
            x = x - 0.5
        return x.reshape(-1, *self.latent_shape), log_det

    def inverse(self, y: Array) -> Array:
        """What the flow sees -> images in [-1, 1] as from `sample`, or points."""
        y = y.reshape(-1, *self.shape)
        if not self.images:
            return y
        logit = self.transform == "logit"
        x = losses.inverse_logit(y, self.alpha) if logit else y + 0.5
        return jnp.clip(losses.from_centres(x), -1, 1)


def make_space(
    config: ConfigDict, *, transform: str, alpha: float, flat: bool = False
) -> Space:
    """Checks names and ranges.

    Raises:
        ConfigError: For an unknown transform, or an alpha out of range.
    """
    choose(dict.fromkeys(TRANSFORMS), transform, "config.model.transform")
    if not 0 < alpha < 0.5:
        raise ConfigError(f"config.model.alpha must be in (0, 0.5), got {alpha}")
    return Space(tuple(config.data.shape), transform, alpha, flat)


def make_net(config: ConfigDict, space: Space, network: Mapping[str, Any]) -> nn.Module:
    """The network of a coupling.

    Args:
        config: Resolved; its dtype is read.
        space: Decides between networks of images and of vectors.
        network: name, a key of `networks.flow_nets.ON_IMAGES` or `ON_VECTORS`, and the
            network's own arguments.

    Raises:
        ConfigError: For an unknown name or argument, or a network of other inputs.
    """
    where, arguments = "config.model.network", dict(network)
    vectors = len(space.latent_shape) == 1
    kinds = ON_VECTORS if vectors else ON_IMAGES
    kind = choose(kinds, arguments.pop("name", None), f"{where}.name")
    if "dtype" in arguments:
        raise ConfigError(f"{where} must leave 'dtype' out: config.dtype sets it")
    arguments["dtype"] = jnp.dtype(compute_dtype(config))
    net = call(kind, arguments, where=where)
    try:
        activation(net.activation)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    return net


def check_halvings(config: ConfigDict, count: int, where: str) -> None:
    """Raises ConfigError unless the images' sides can be halved `count` times."""
    shape = _inputs.image_shape(config)
    if any(side % 2**count for side in shape[:2]):
        raise ConfigError(
            f"{where} needs sides that can be halved {count} times, but those of "
            f"config.data.name={config.data.name!r} are {shape[0]}x{shape[1]}"
        )


def check_blocks(num_blocks: Sequence[int], space: Space, config: ConfigDict) -> None:
    """Raises ConfigError unless config.model.num_blocks are counts for its levels."""
    where = "config.model.num_blocks"
    check_counts("num_blocks", num_blocks, least=0)
    if space.images:
        check_halvings(config, len(num_blocks) - 1, where)
    elif len(num_blocks) > 1:
        raise ConfigError(
            f"{where} must be one number for points, which have one level, got "
            f"{tuple(num_blocks)}"
        )


def check_counts(name: str, counts: Sequence[int], least: int = 1) -> None:
    """Raises ConfigError unless config.model.<name> are whole numbers."""
    whole = all(isinstance(n, int) and n >= least for n in counts)
    if not counts or not whole:
        raise ConfigError(
            f"config.model.{name} must be whole numbers from {least} on, got {counts!r}"
        )


@dataclass(frozen=True)
class Flow:
    """A bijection to standard normal latents, and how data become continuous.

    Attributes:
        space: What the bijection sees.
        bijection: From there to the latents, a module of `networks.flow`.
        dequantizer: Draws the noise in each grey level's bin; None for even noise.
    """

    space: Space
    bijection: nn.Module
    dequantizer: nn.Module | None = None

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of what is trained."""
        return ("flow",) if self.dequantizer is None else ("flow", "dequantizer")

    def init(self, key: Array, batch: Batch) -> tuple[Params, ModelState]:
        """Parameters, those of norms from the batch's statistics."""
        noise_key, dequantizer_key, key = jax.random.split(key, 3)
        params = {}
        if self.dequantizer is not None:
            x = _inputs.floats(batch)
            params["dequantizer"] = self.dequantizer.init(dequantizer_key, x, x)[
                "params"
            ]
        y, _ = self.space.forward(self.continuous(params, batch, noise_key)[0])
        made = dict(self.init_bijection(key, y))
        params["flow"] = made.pop("params")
        return params, {"flow": made} if made else {}

    def init_bijection(self, key: Array, y: Array) -> Mapping[str, Any]:
        """Its linen variables, from what it sees of a batch."""
        return self.bijection.init(key, y, method="forward")

    def continuous(
        self, params: Params, batch: Batch, key: Array
    ) -> tuple[Array, Array]:
        """Data with a density, and the nats [B] to take from its logarithm."""
        if not self.space.images:
            return batch["point"], jnp.zeros(len(batch["point"]))
        image = batch["image"]
        if self.dequantizer is None:
            return losses.uniform(image, key)
        eps = jax.random.normal(key, image.shape)
        variables = {"params": params["dequantizer"]}
        u, log_q = self.dequantizer.apply(variables, _inputs.floats(batch), eps)
        return losses.variational(image, u, log_q)

    def terms(
        self,
        params: Params,
        model_state: ModelState,
        batch: Batch,
        key: Array,
        *,
        train: bool,
    ) -> tuple[dict[str, Array], Array, ModelState]:
        """The terms of -log p, the penalty, nats [B] each, and what changed."""
        noise_key, key = jax.random.split(key)
        x, cost = self.continuous(params, batch, noise_key)
        y, log_det = self.space.forward(x)
        z, own, penalty, changed = self.transform(
            params, model_state, y, key, train=train
        )
        base = -sum_dims(gaussian_log_prob(z, 0.0, 0.0))
        terms = {"base": base, "log_det": -(log_det + own)}
        if self.space.images:
            terms["dequantization"] = cost
        return terms, penalty, changed

    def transform(
        self,
        params: Params,
        model_state: ModelState,
        y: Array,
        key: Array,
        *,
        train: bool,
    ) -> tuple[Array, Array, Array, ModelState]:
        """Latents [B, ...], log_det [B], what the loss adds [B], and what changed."""
        state = model_state.get("flow", {})
        (z, log_det), changed = self.bijection.apply(
            {"params": params["flow"], **state},
            y,
            train=train,
            method="forward",
            mutable=["penalties", "batch_stats"] if train else ["penalties"],
            rngs={"log_det": key},
        )
        changed = dict(changed)
        penalties = jax.tree.leaves(changed.pop("penalties", {}))
        changed = {"flow": {**state, **changed}} if changed else {}
        return z, log_det, sum(penalties, jnp.zeros(len(y))), changed

    def encode(
        self, params: Params, model_state: ModelState, key: Array, batch: Batch
    ) -> Array:
        """Latents [B, ...] of points, or of the middles of the grey levels' bins."""
        x = _inputs.floats(batch)
        y, _ = self.space.forward(losses.centres(x) if self.space.images else x)
        return self.latents(params, model_state, y)

    def decode(
        self, params: Params, model_state: ModelState, latents: Array, cond: Any
    ) -> Array:
        """The inverse of `encode`: images [N, H, W, C] in [-1, 1], or points [N, D]."""
        return self.space.inverse(self.inverse(params, model_state, latents))

    def latents(self, params: Params, model_state: ModelState, y: Array) -> Array:
        """What the bijection makes of y, with running averages."""
        variables = {"params": params["flow"], **model_state.get("flow", {})}
        return self.bijection.apply(variables, y, method="forward")[0]

    def inverse(self, params: Params, model_state: ModelState, z: Array) -> Array:
        """The inverse of `latents`."""
        variables = {"params": params["flow"], **model_state.get("flow", {})}
        return self.bijection.apply(variables, z, method="inverse")

    def prior(
        self, params: Params, model_state: ModelState, keys: Array, cond: Any
    ) -> Array:
        """Standard normal latents [N, ...]."""
        shape = self.space.latent_shape
        return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def make_flow(
    config: ConfigDict,
    space: Space,
    bijection: nn.Module,
    dequantizer: Mapping[str, Any] | None = None,
) -> Flow:
    """The flow, with a `networks.dequantizer.Dequantizer` if there are arguments.

    Raises:
        ConfigError: If points are to be dequantised, or images of odd sides.
    """
    if dequantizer is None:
        return Flow(space, bijection)
    where = "config.model.dequantizer"
    check_halvings(config, 1, where)
    arguments = {**dequantizer, "dtype": jnp.dtype(compute_dtype(config))}
    module = call(Dequantizer, arguments, where=where)
    return Flow(space, bijection, module)


def as_method(flow: Flow, config: ConfigDict) -> Method:
    """One player, "flow", that minimises the mean of -log p in nats.

    The likelihood of points is exact. That of images is a lower bound of the grey
    levels' log-probability, by one draw of the dequantisation noise. Its parts:
    "base", -log N(z; 0, 1); "log_det", minus all log-determinants, that of the logit
    included; "dequantization", D log 256 and, where the noise is learned, its
    log-density.
    """
    temperature = call(_temperature, config.sampler, where="config.sampler")

    def loss(
        params: Params,
        model_state: ModelState,
        batch: Batch,
        key: Array,
        *,
        step: Array,
        train: bool,
    ) -> tuple[Array, tuple[ModelState, dict[str, Array]]]:
        terms, penalty, changed = flow.terms(
            params, model_state, batch, key, train=train
        )
        metrics = {name: value.mean() for name, value in terms.items()}
        nll = sum(metrics.values())
        if flow.space.images:
            metrics["bits_per_dim"] = bits_per_dim(nll, flow.space.num_dims)
        return nll + penalty.mean(), (changed, metrics)

    def log_likelihood(
        params: Params, model_state: ModelState, key: Array, batch: Batch
    ) -> tuple[Array, dict[str, Array]]:
        terms, *_ = flow.terms(params, model_state, batch, key, train=False)
        return -sum(terms.values()), terms

    def sample(
        params: Params, model_state: ModelState, keys: Array, cond: Any
    ) -> Array:
        z = temperature * flow.prior(params, model_state, keys, cond)
        return flow.decode(params, model_state, z, cond)

    return Method(
        init=flow.init,
        players=(Player("flow", flow.networks, loss),),
        sample=sample,
        log_likelihood=log_likelihood,
        bound=flow.space.images,
        encode=flow.encode,
        decode=flow.decode,
        prior=flow.prior,
    )


def _temperature(temperature: float = 1.0) -> float:
    """The factor of the latents' standard deviation at sampling.

    Reference: Kingma & Dhariwal, Glow, arXiv:1807.03039, Sec. 6.
    """
    if not isinstance(temperature, (int, float)) or temperature < 0:
        raise ConfigError(
            f"config.sampler.temperature must be a number from 0 on, got {temperature}"
        )
    return temperature
