"""What autoregressive models share: distributions of a pixel, and their method."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from genjax import images
from genjax.config import ConfigError, call, check_count, choose
from genjax.losses import likelihood, reconstruction
from genjax.methods import _inputs
from genjax.samplers import autoregressive
from genjax.types import Batch, Method, ModelState, Params, Player

BINARIZE = ("dynamic", "threshold")


@dataclass(frozen=True)
class Head:
    """The distribution of a pixel given a network's outputs there.

    Pixels are levels, int 0..num_levels-1. A level k of K lies at 2 k / (K - 1) - 1.

    Attributes:
        name: "binary", "categorical" or "logistic_mixture".
        shape: (H, W, C).
        num_levels: K.
        binarize: How images become binary.
        num_mixtures: Components of the mixture.
    """

    name: str
    shape: tuple[int, int, int]
    num_levels: int
    binarize: str = ""
    num_mixtures: int = 0

    @property
    def parts(self) -> int:
        """Draws that make a pixel: one for each channel, or one for all channels."""
        return 1 if self.name == "logistic_mixture" else self.shape[-1]

    @property
    def num_outputs(self) -> int:
        """Of a network for each pixel; those of one part after the other."""
        channels = self.shape[-1]
        return {
            "binary": channels,
            "categorical": channels * self.num_levels,
            "logistic_mixture": self.num_mixtures * likelihood.mixture_size(channels),
        }[self.name]

    def levels(self, batch: Batch, key: Array) -> Array:
        """The data, int32 [B, H, W, C]; the key draws binary pixels."""
        if self.name == "binary":
            return _inputs.binarized(batch, self.binarize, key).astype(jnp.int32)
        return self.from_images(images.to_float(batch["image"]))

    def from_images(self, x: Array) -> Array:
        """The levels nearest to floats in [-1, 1], int32 of the same shape."""
        top = self.num_levels - 1
        return jnp.round(jnp.clip((x + 1) / 2, 0, 1) * top).astype(jnp.int32)

    def floats(self, levels: Array) -> Array:
        """What a network sees, float32 in [-1, 1]; a level of -1, not drawn yet, is 0.

        Drawn levels come out as images.
        """
        places = 2 * levels.astype(jnp.float32) / (self.num_levels - 1) - 1
        return jnp.where(levels < 0, 0.0, places)

    def nll(self, outputs: Array, levels: Array) -> Array:
        """-log P(levels) in nats [B].

        Args:
            outputs: [B, H, W, num_outputs], or with the last axis split up.
            levels: Int [B, H, W, C].
        """
        outputs = outputs.astype(jnp.float32)
        if self.name == "binary":
            logits = outputs.reshape(levels.shape)
            return reconstruction.bernoulli_nll(logits, levels.astype(jnp.float32))
        if self.name == "categorical":
            logits = outputs.reshape(*levels.shape, self.num_levels)
            return likelihood.categorical_nll(logits, levels)
        channels = levels.shape[-1]
        outputs = outputs.reshape(*levels.shape[:-1], -1)
        mixture = likelihood.logistic_mixture(outputs, channels)
        return likelihood.logistic_mixture_nll(
            mixture, self.floats(levels), self.num_levels
        )

    def draw(self, key: Array, params: Array) -> tuple[Array, Array]:
        """One part of one pixel from its parameters [num_outputs / parts].

        Returns:
            Levels, int32 [C / parts], and their log-probability [].
        """
        # In half precision noise is as coarse, and what is unlikely comes too often.
        params = params.astype(jnp.float32)
        if self.name == "binary":
            drawn = jax.random.bernoulli(key, jax.nn.sigmoid(params)).astype(jnp.int32)
        elif self.name == "categorical":
            drawn = jax.random.categorical(key, params)[None].astype(jnp.int32)
        else:
            drawn = self.draw_mixture(key, params)
        return drawn, -self.nll(params[None, None, None], drawn[None, None, None])[0]

    def draw_mixture(self, key: Array, params: Array) -> Array:
        """A pixel's channels, int32 [C], each from the levels drawn before it.

        A logistic value that is rounded to the nearest level has the probability of the
        level's bin. The authors couple the channels before they round.
        """
        mixture = likelihood.logistic_mixture(params, self.shape[-1])
        component_key, key = jax.random.split(key)
        i = jax.random.categorical(component_key, mixture.logits)
        noise = jax.random.logistic(key, self.shape[-1:])
        wanted = mixture.mean[i] + jnp.exp(mixture.log_scale[i]) * noise
        levels: list[Array] = []
        for channel in range(self.shape[-1]):
            before = [
                mixture.coupling[i, channel, j] * self.floats(level)
                for j, level in enumerate(levels)
            ]
            levels.append(self.from_images(wanted[channel] + sum(before)))
        return jnp.stack(levels)


def make_head(config: ConfigDict, output: Mapping[str, Any]) -> Head:
    """The distribution that a config describes.

    Args:
        config: Resolved; its data are read.
        output: name, "binary", "categorical" or "logistic_mixture", and the arguments
            of `binary`, `categorical` or `mixture` below.

    Raises:
        ConfigError: For unknown names or numbers out of range.
    """
    shape = _inputs.image_shape(config)
    where = "config.model.output"

    def check_levels(num_levels: int) -> None:
        if not isinstance(num_levels, int) or not 2 <= num_levels <= 256:
            raise ConfigError(f"{where}.num_levels must be 2..256, got {num_levels!r}")

    def binary(binarize: str = "dynamic") -> Head:
        choose(dict.fromkeys(BINARIZE), binarize, f"{where}.binarize")
        return Head("binary", shape, 2, binarize=binarize)

    def categorical(num_levels: int = 256) -> Head:
        check_levels(num_levels)
        return Head("categorical", shape, num_levels)

    def mixture(num_mixtures: int = 10, num_levels: int = 256) -> Head:
        check_levels(num_levels)
        check_count(f"{where}.num_mixtures", num_mixtures)
        return Head("logistic_mixture", shape, num_levels, num_mixtures=num_mixtures)

    heads = dict(binary=binary, categorical=categorical, logistic_mixture=mixture)
    arguments = dict(output)
    head = choose(heads, arguments.pop("name", None), f"{where}.name")
    return call(head, arguments, where=where, beside=("name",))


StepsFn = Callable[[Any, int, Array | None, Array], autoregressive.Steps]


def is_incremental(incremental: bool = True) -> bool:
    """config.sampler: False runs the whole network anew for each part of a pixel.

    Samples are the same, but for rounding, and take far longer.
    """
    return bool(incremental)


@dataclass(frozen=True)
class PixelModel:
    """One network of the pixels before each pixel, by likelihood.

    Attributes:
        name: Of the player and the network.
        module: (x float [B, H, W, C] in [-1, 1], one-hot label [B, K] or None, train=)
            -> outputs [B, H, W, num_outputs] for `head`, in which each pixel's depend
            on those before it alone. Dropout draws from the rng "dropout".
        head: The distribution of a pixel.
        steps_fn: (the network's params, N, one-hot label or None, keys [N]) -> Steps of
            the sampler, which compute no more than a new part of a pixel changes.
        num_classes: K, of a model of p(x | label).
        sequence: The steps read an image as one row of its parts, (1, H W parts,
            C / parts), rather than as (H, W, C).
        log_prob_fn: (params, key, x, levels, label, train) -> nats [B], in place of the
            network's outputs under `head`.
        order_fn: keys [N] -> int [N, S], which of the sequence's S parts each step
            draws; None is reading order.
        drawn_fn: (params, x, keys [N]) -> outputs, in place of the network's for images
            that are drawn with these keys.
        incremental: Whether to sample by the steps, or by the whole network.
    """

    name: str
    module: nn.Module
    head: Head
    steps_fn: StepsFn
    num_classes: int | None = None
    sequence: bool = False
    log_prob_fn: Callable[..., Array] | None = None
    order_fn: Callable[[Array], Array] | None = None
    drawn_fn: Callable[[Any, Array, Array], Array] | None = None
    incremental: bool = True

    def method(self, config: ConfigDict) -> Method:
        """The Method of one player; config.sampler says whether it is incremental."""
        incremental = call(is_incremental, config.sampler, where="config.sampler")
        model = replace(self, incremental=incremental)
        return Method(
            init=model.init,
            players=(Player(self.name, (self.name,), model.loss),),
            sample=model.sample,
            log_likelihood=model.log_likelihood,
            complete=model.complete,
            cond=() if self.num_classes is None else ("label",),
        )

    @property
    def grid(self) -> tuple[int, int, int]:
        """Rows, columns and channels as the sampler's steps read an image."""
        if not self.sequence:
            return self.head.shape
        height, width, channels = self.head.shape
        parts = self.head.parts
        return 1, height * width * parts, channels // parts

    def label_of(self, batch: Mapping[str, Array]) -> Array | None:
        """One-hot labels [B, K], if the model takes them."""
        if self.num_classes is None:
            return None
        return jax.nn.one_hot(batch["label"], self.num_classes)

    def init(self, key: Array, batch: Batch) -> tuple[Params, ModelState]:
        """Fresh weights; no model state."""
        levels_key, key = jax.random.split(key)
        batch = {entry: value[:1] for entry, value in batch.items()}
        x = self.head.floats(self.head.levels(batch, levels_key))
        variables = self.module.init(key, x, self.label_of(batch), train=False)
        return {self.name: variables["params"]}, {}

    def outputs(
        self,
        params: Params,
        x: Array,
        label: Array | None,
        *,
        train: bool = False,
        key: Array | None = None,
    ) -> Array:
        """The network's outputs for every pixel of x at once."""
        variables = {"params": params[self.name]}
        rngs = None if key is None else {"dropout": key}
        return self.module.apply(variables, x, label, train=train, rngs=rngs)

    def log_prob(
        self, params: Params, key: Array, batch: Batch, *, train: bool
    ) -> Array:
        """log P(x) in nats [B] of the image at the head's levels, given its label."""
        levels_key, key = jax.random.split(key)
        levels, label = self.head.levels(batch, levels_key), self.label_of(batch)
        x = self.head.floats(levels)
        if self.log_prob_fn is not None:
            return self.log_prob_fn(params[self.name], key, x, levels, label, train)
        outputs = self.outputs(params, x, label, train=train, key=key)
        return -self.head.nll(outputs, levels)

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
        """-log p(x) in nats per image."""
        nll = -self.log_prob(params, key, batch, train=train).mean()
        bits = likelihood.bits_per_dim(nll, math.prod(self.head.shape))
        return nll, ({}, {"bits_per_dim": bits})

    def log_likelihood(
        self, params: Params, model_state: ModelState, key: Array, batch: Batch
    ) -> tuple[Array, dict[str, Array]]:
        """`log_prob`; for dynamic binarisation the key draws the binary image."""
        return self.log_prob(params, key, batch, train=False), {}

    def draw(
        self, params: Params, keys: Array, cond: Mapping[str, Array], **completion: Any
    ) -> Array:
        """Images [N, H, W, C] in [-1, 1]; `completion` goes to the sampler."""
        head, label, num = self.head, self.label_of(cond), len(keys)
        order = None if self.order_fn is None else self.order_fn(keys)

        def ordered(values: Array) -> Array:
            """From reading order to that of drawing."""
            return values if order is None else take(values, order)

        def read(levels: Array) -> Array:
            """The image of levels in the order of drawing."""
            if order is not None:
                levels = take(levels, jnp.argsort(order, axis=1))
            return head.floats(levels.reshape(num, *head.shape))

        def whole_fn(levels: Array) -> Array:
            if self.drawn_fn is None:
                outputs = self.outputs(params, read(levels), label)
            else:
                outputs = self.drawn_fn(params[self.name], read(levels), keys)
            return ordered(outputs.reshape(*levels.shape[:3], -1))

        parts = 1 if self.sequence else head.parts
        if self.incremental:
            steps = self.steps_fn(params[self.name], num, label, keys)
        else:
            steps = autoregressive.whole(whole_fn, num, self.grid, parts)
        completion = {entry: ordered(value) for entry, value in completion.items()}
        levels, _ = autoregressive.sample(
            steps, head.draw, keys, self.grid, parts=parts, **completion
        )
        return read(levels)

    def sample(
        self,
        params: Params,
        model_state: ModelState,
        keys: Array,
        cond: Mapping[str, Array],
    ) -> Array:
        """Images drawn part by part."""
        return self.draw(params, keys, cond)

    def complete(
        self,
        params: Params,
        model_state: ModelState,
        keys: Array,
        x: Array,
        known: Array,
        cond: Mapping[str, Array],
    ) -> Array:
        """Draws each unknown pixel from what is known or drawn before it.

        The model sees known pixels at its levels; what is known further on does not
        reach those before it.
        """
        given = self.head.from_images(x).reshape(-1, *self.grid)
        repeats = self.head.parts if self.sequence else 1
        sites = jnp.repeat(known, repeats, axis=2).reshape(given.shape[:3])
        drawn = self.draw(params, keys, cond, known=sites, given=given)
        return jnp.where(known[..., None], x, drawn)


def take(values: Array, places: Array) -> Array:
    """Places [N, S] of each row of values [N, 1, S, ...], in that order."""
    return jax.vmap(lambda row, own: row[:, own])(values, places)
