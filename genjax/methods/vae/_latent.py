"""What variational autoencoders share: pixels, networks, the bound and its stream."""

import abc
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
from genjax.losses import reconstruction
from genjax.losses.likelihood import MIN_LOG_SCALE, smooth_maximum
from genjax.methods import _inputs
from genjax.networks import vae as networks
from genjax.networks.layers import activation, num_halvings
from genjax.types import Batch, Method, ModelState, Params, Player

Terms = dict[str, Array]  # {name: nats [B]}, which sum to minus an ELBO.
NETWORKS = {
    "mlp": (networks.MLPCoder, networks.MLPCoder),
    "conv": (networks.ConvEncoder, networks.ConvDecoder),
}
DECODERS = {"bernoulli": 1, "gaussian": 2, "discretized_logistic": 2}
BINARIZE = ("dynamic", "threshold", "none")
# A Gaussian half a grey level wide says all there is to say of a grey level. Were it
# free, pixels that never change would make it ever narrower: a density has no upper
# bound, and the likelihood would grow for ever.
MIN_LOG_VAR = 2 * math.log(1 / 255)


@dataclass(frozen=True)
class Pixels:
    """The distribution p(x | z) of the data given a decoder's outputs.

    Attributes:
        decoder: "bernoulli", "gaussian" or "discretized_logistic".
        shape: Of one example.
        binarize: How images become binary for "bernoulli".
    """

    decoder: str
    shape: tuple[int, ...]
    binarize: str

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Of a decoder's outputs for one example: some numbers for each pixel."""
        return (*self.shape, DECODERS[self.decoder])

    def inputs(self, batch: Batch, key: Array | None) -> Array:
        """The data [B, *shape]; without a key, their mean over binarisations."""
        if self.decoder != "bernoulli":
            return _inputs.floats(batch)
        return _inputs.binarized(batch, self.binarize, key)

    def nll(self, outputs: Array, x: Array) -> Array:
        """-log p(x | z) in nats [B] from outputs [B, *out_shape]."""
        if self.decoder == "bernoulli":
            return reconstruction.bernoulli_nll(outputs[..., 0], x)
        mean, raw = outputs[..., 0], outputs[..., 1]
        if self.decoder == "gaussian":
            log_var = smooth_maximum(raw, MIN_LOG_VAR)
            return reconstruction.gaussian_nll(mean, log_var, x)
        log_scale = smooth_maximum(raw, MIN_LOG_SCALE)
        return reconstruction.discretized_logistic_nll(mean, log_scale, x)

    def mean(self, outputs: Array) -> Array:
        """The mean of p(x | z): images in [-1, 1], or points, [B, *shape]."""
        first = outputs[..., 0]
        if self.decoder == "bernoulli":
            return 2 * jax.nn.sigmoid(first) - 1
        return jnp.clip(first, -1, 1) if len(self.shape) == 3 else first


def make_pixels(config: ConfigDict, decoder: str, binarize: str) -> Pixels:
    """Checks that the decoder fits the data.

    Raises:
        ConfigError: For unknown names, or points where images are needed.
    """
    choose(DECODERS, decoder, "config.model.decoder")
    choose(dict.fromkeys(BINARIZE), binarize, "config.model.binarize")
    if decoder == "gaussian":
        return Pixels(decoder, tuple(config.data.shape), binarize)
    return Pixels(decoder, _inputs.image_shape(config), binarize)


def make_coders(
    config: ConfigDict,
    network: Mapping[str, Any],
    *,
    latent_shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    shared_scale: bool = False,
    where: str = "config.model.network",
) -> tuple[nn.Module, nn.Module]:
    """The encoder and the decoder that a config describes.

    Args:
        config: Resolved; its data and dtype are read.
        network: name, a key of `NETWORKS`, and the network's own arguments.
        latent_shape: Of the encoder's output for one example.
        out_shape: Of the decoder's.
        shared_scale: Whether the decoder's second number is one for all pixels.
        where: The place in the config, for messages.

    Raises:
        ConfigError: For unknown names, or an image that the network cannot halve.
    """
    arguments = dict(network)
    kinds = choose(NETWORKS, arguments.pop("name", "mlp"), f"{where}.name")
    shapes = [latent_shape, (*out_shape[:-1], 1) if shared_scale else out_shape]
    for field in ("out_shape", "dtype"):
        if field in arguments:
            raise ConfigError(f"{where} must leave {field!r} out: it follows elsewhere")
    arguments["dtype"] = jnp.dtype(compute_dtype(config))
    encoder, decoder = (
        call(kind, {**arguments, "out_shape": shape}, where=where)
        for kind, shape in zip(kinds, shapes, strict=True)
    )
    try:
        activation(encoder.activation)
        if isinstance(encoder, networks.ConvEncoder):
            num_halvings(*_inputs.image_shape(config)[:2])
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    return encoder, networks.SharedScale(decoder) if shared_scale else decoder


@dataclass(frozen=True)
class LatentModel(abc.ABC):
    """A generative model p(z) p(x | z) with its inference network q(z | x).

    Attributes:
        pixels: p(x | z).
        modules: {network: module}, for `params` of the same names.
        num_classes: Of the labels that the networks see; None if they see none.
    """

    pixels: Pixels
    modules: Mapping[str, nn.Module]
    num_classes: int | None = None

    def apply(self, params: Params, name: str, *args: Any) -> Any:
        """The outputs of one network."""
        return self.modules[name].apply({"params": params[name]}, *args)

    def init(self, key: Array, batch: Batch) -> tuple[Params, ModelState]:
        """Parameters of all networks; there is no model_state."""
        inputs = self.example_inputs(
            self.pixels.inputs(batch, None), self.context(batch)
        )
        keys = jax.random.split(key, len(self.modules))
        return {
            name: module.init(k, *inputs[name])["params"]
            for k, (name, module) in zip(keys, self.modules.items(), strict=True)
        }, {}

    def context(self, batch: Batch) -> Array | None:
        """One-hot labels [B, K], from a batch or from `cond`."""
        if self.num_classes is None:
            return None
        return jax.nn.one_hot(batch["label"], self.num_classes)

    @abc.abstractmethod
    def example_inputs(
        self, x: Array, context: Array | None
    ) -> dict[str, tuple[Array | None, ...]]:
        """What each network takes, {network: arguments}, to initialise it with."""

    @abc.abstractmethod
    def infer(self, params: Params, x: Array, context: Array | None) -> Any:
        """What q(z | x) needs to know of x, arrays [B, ...]."""

    @abc.abstractmethod
    def draw(
        self,
        params: Params,
        posterior: Any,
        x: Array,
        context: Array | None,
        key: Array,
    ) -> tuple[Terms, Array]:
        """One draw z from q: the terms of -ELBO there, and log p(x, z) - log q(z | x).

        Both are nats [B]; the exponential of the second is an unbiased estimate of
        p(x), and the terms are one of the ELBO.
        """

    def terms(
        self,
        params: Params,
        posterior: Any,
        x: Array,
        context: Array | None,
        key: Array,
    ) -> Terms:
        """The terms of -ELBO, with divergences in closed form where there is one."""
        return self.draw(params, posterior, x, context, key)[0]

    @abc.abstractmethod
    def mean(self, posterior: Any) -> Array:
        """The mean of the latents that `decode` takes, [B, ...]."""

    @abc.abstractmethod
    def prior(self, params: Params, keys: Array) -> Array:
        """Latents [N, ...], each from its own key."""

    def outputs(self, params: Params, z: Array, context: Array | None) -> Array:
        """The decoder's [N, *out_shape] for latents [N, ...]."""
        return self.apply(params, "decoder", z, context)


Objective = Callable[..., tuple[Array, Terms]]


def elbo_objective(model: LatentModel, beta: float = 1.0) -> Objective:
    """Reconstruction + beta * (sum of KL terms); at beta = 1 minus the ELBO.

    Returns:
        (params, posterior, x, context, key, *, step, train) -> (loss [B], terms).

    Reference: Higgins et al., beta-VAE, ICLR 2017, Eq. 4.
    """

    def objective(params, posterior, x, context, key, *, step, train):
        terms = model.terms(params, posterior, x, context, key)
        kl = sum(v for name, v in terms.items() if name != "reconstruction")
        return terms["reconstruction"] + beta * kl, terms

    return objective


def as_method(model: LatentModel, objective: Objective) -> Method:
    """The Method of one player, "vae", that minimises the objective's mean."""

    def loss(
        params: Params,
        model_state: ModelState,
        batch: Batch,
        key: Array,
        *,
        step: Array,
        train: bool,
    ) -> tuple[Array, tuple[ModelState, dict[str, Array]]]:
        inputs_key, key = jax.random.split(key)
        x, context = model.pixels.inputs(batch, inputs_key), model.context(batch)
        posterior = model.infer(params, x, context)
        values, terms = objective(
            params, posterior, x, context, key, step=step, train=train
        )
        metrics = {name: value.mean() for name, value in terms.items()}
        return values.mean(), ({}, {**metrics, "elbo": -sum(metrics.values())})

    def encode(
        params: Params, model_state: ModelState, key: Array, batch: Batch
    ) -> Array:
        x = model.pixels.inputs(batch, None)
        return model.mean(model.infer(params, x, model.context(batch)))

    def decode(
        params: Params,
        model_state: ModelState,
        latents: Array,
        cond: Mapping[str, Array],
    ) -> Array:
        outputs = model.outputs(params, latents, model.context(cond))
        return model.pixels.mean(outputs)

    def prior(
        params: Params, model_state: ModelState, keys: Array, cond: Mapping[str, Array]
    ) -> Array:
        return model.prior(params, keys)

    def sample(
        params: Params, model_state: ModelState, keys: Array, cond: Mapping[str, Array]
    ) -> Array:
        """The mean of p(x | z) at z from the prior, without the noise of the pixels.

        It is what papers show.
        """
        return decode(params, model_state, model.prior(params, keys), cond)

    return Method(
        init=model.init,
        players=(Player("vae", tuple(model.modules), loss),),
        sample=sample,
        log_likelihood=make_log_likelihood(model),
        bound=True,
        encode=encode,
        decode=decode,
        prior=prior,
        cond=() if model.num_classes is None else ("label",),
    )


def make_log_likelihood(model: LatentModel) -> Callable[..., tuple[Array, Terms]]:
    """The estimate of log p(x) by importance sampling from q(z | x)."""

    def log_likelihood(
        params: Params,
        model_state: ModelState,
        key: Array,
        batch: Batch,
        *,
        num_samples: int = 1,
        chunk: int = 50,
    ) -> tuple[Array, Terms]:
        """A lower bound of log p(x) in nats of the data as the decoder sees them.

        These are probabilities of binary images for "bernoulli" (of none for
        binarize="none"), of 256 levels for "discretized_logistic", and for "gaussian" a
        density of the values in [-1, 1]. Neither beta nor free bits enter.

        Args:
            params: Of all networks.
            model_state: Not used.
            key: Of the binarisation and of the samples; sample i depends on it and on
                i alone, not on `chunk`.
            batch: With what the model needs.
            num_samples: k. With 1 the result is the ELBO, KL terms in closed form where
                there is one; above, the IWAE-k bound, with a part "gap": the mean ELBO
                of the k samples minus the bound, at most 0.
            chunk: Samples at a time: memory grows with it, not with num_samples.

        Raises:
            ConfigError: Unless num_samples and chunk are whole numbers from 1 on.

        Reference: Burda et al., arXiv:1509.00519, Sec. 3, Eq. 8.
        """
        for field, value in dict(num_samples=num_samples, chunk=chunk).items():
            check_count(f"config.likelihood.{field}", value)
        inputs_key, key = jax.random.split(key)
        x, context = model.pixels.inputs(batch, inputs_key), model.context(batch)
        posterior = model.infer(params, x, context)
        if num_samples == 1:
            terms = model.terms(params, posterior, x, context, key)
            return -sum(terms.values()), terms
        bound, terms = streamed_bound(
            lambda k: model.draw(params, posterior, x, context, k),
            key,
            num_samples,
            min(chunk, num_samples),
        )
        return bound, {**terms, "gap": -bound - sum(terms.values())}

    return log_likelihood


def streamed_bound(
    draw_fn: Callable[[Array], tuple[Terms, Array]],
    key: Array,
    num_samples: int,
    chunk: int,
) -> tuple[Array, Terms]:
    """The bound of `num_samples` draws, `chunk` of them in memory at a time.

    Args:
        draw_fn: key -> (terms {name: nats [B]}, log-weight [B]).
        key: Draw i uses fold_in(key, i).
        num_samples: k.
        chunk: Draws at a time; the last chunk is cut short if it does not divide k.

    Returns:
        log(1/k sum_i w_i) [B] and the means of the terms over the draws.

    Reference: Burda et al., arXiv:1509.00519, Eq. 8.
    """

    def add(carry, start):
        log_sum, totals = carry
        index = start + jnp.arange(chunk)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
        terms, log_weights = jax.vmap(draw_fn)(keys)
        counts = (index < num_samples)[:, None]
        log_weights = jnp.where(counts, log_weights, -jnp.inf)
        log_sum = jnp.logaddexp(log_sum, jax.nn.logsumexp(log_weights, axis=0))
        sums = {name: jnp.sum(t, 0, where=counts) for name, t in terms.items()}
        return (log_sum, jax.tree.map(jnp.add, totals, sums)), None

    terms, log_weight = jax.eval_shape(draw_fn, key)
    zeros = jax.tree.map(lambda t: jnp.zeros(t.shape), terms)
    start = jnp.full(log_weight.shape, -jnp.inf), zeros
    (log_sum, totals), _ = jax.lax.scan(add, start, jnp.arange(0, num_samples, chunk))
    means = jax.tree.map(lambda total: total / num_samples, totals)
    return log_sum - math.log(num_samples), means
