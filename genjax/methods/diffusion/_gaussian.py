"""What DDPM and its relatives share: a denoiser on a schedule, and walks along it."""

import itertools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from ml_collections import ConfigDict

from genjax import images, processes, schedules
from genjax.config import ConfigError, call, compute_dtype
from genjax.losses import diffusion as losses
from genjax.methods._inputs import classes, image_shape
from genjax.networks.attention import split_heads
from genjax.networks.classifier import NoisyClassifier
from genjax.networks.unet import Trunk, UNet, check_image_size
from genjax.samplers import diffusion as samplers
from genjax.samplers import guidance
from genjax.types import Batch, Method, ModelState, Params

MIN_INVERTIBLE_POWER = 1e-3  # An error of eps is 30 times as large in x0 there.


@dataclass(frozen=True)
class Denoiser:
    """A U-Net that is trained as the network "denoiser".

    Attributes:
        network: Predicts eps, x0 or v, and with `learned` a variance beside it.
        alphas_cumprod: float64 [T].
        prediction: "eps", "x0" or "v".
        variance: Of p(x_{t-1} | x_t): "small", "large" or "learned".
        shape: Of an image, (H, W, C).
        num_classes: K for a class-conditional network, else None.
        label_dropout: Share of training labels replaced by "no class"; without it the
            network cannot guide itself.
    """

    network: nn.Module
    alphas_cumprod: np.ndarray
    prediction: str
    variance: str
    shape: tuple[int, ...]
    num_classes: int | None
    label_dropout: float

    def init(self, key: Array, batch: Batch) -> tuple[Params, ModelState]:
        """Fresh weights; no model state."""
        x = images.to_float(batch["image"][:1])
        variables = self.network.init(
            key, x, jnp.zeros(1, jnp.int32), self.null_label(1), train=False
        )
        return {"denoiser": variables["params"]}, {}

    def null_label(self, num: int) -> Array | None:
        """The label that means "no class", int32 [num]; None without classes."""
        if self.num_classes is None:
            return None
        return jnp.full(num, self.num_classes, jnp.int32)

    def predict_fn(
        self,
        params: Params,
        label: Array | None,
        *,
        train: bool = False,
        dropout_key: Array | None = None,
    ) -> Callable:
        """(x_t, t) -> the network's prediction, or (prediction, v) when learned."""
        rngs = None if dropout_key is None else {"dropout": dropout_key}

        def predict(x_t: Array, t: Array) -> Array | tuple[Array, Array]:
            output = self.network.apply(
                {"params": params["denoiser"]}, x_t, t, label, train=train, rngs=rngs
            )
            if self.variance != "learned":
                return output
            first, v = jnp.split(output, 2, axis=-1)
            return first, v

        return predict

    def eps_fn(self, params: Params, label: Array | None, **kwargs: Any) -> Callable:
        """The same as a predictor of eps, which losses and samplers take."""
        return processes.as_eps_fn(
            self.predict_fn(params, label, **kwargs),
            self.prediction,
            alphas_cumprod=self.alphas_cumprod,
        )

    def guided_eps_fn(
        self, params: Params, cond: Mapping[str, Array], guidance_scale: float
    ) -> Callable:
        """eps with classifier-free guidance towards cond["label"]; 1 is none."""
        if self.num_classes is None:
            return self.eps_fn(params, None)
        return guidance.classifier_free(
            lambda x_t, t, label: self.eps_fn(params, label)(x_t, t),
            cond["label"],
            self.null_label(cond["label"].shape[0]),
            guidance_scale,
        )

    def log_likelihood(
        self, params: Params, model_state: ModelState, key: Array, batch: Batch
    ) -> tuple[Array, dict[str, Array]]:
        """The variational bound in nats [B], and its terms L_T, L_{1..T-1} and L_0."""
        bound = losses.variational_bound(
            self.eps_fn(params, self.label_of(batch)),
            images.to_float(batch["image"]),
            key,
            alphas_cumprod=self.alphas_cumprod,
            variance=self.variance,
        )
        parts = {
            "L_T": bound.prior,
            "L_{1..T-1}": bound.denoising.sum(axis=1),
            "L_0": bound.decoder,
        }
        return -bound.total, parts

    def label_of(self, batch: Batch) -> Array | None:
        """The batch's label, if the network wants one."""
        return None if self.num_classes is None else batch["label"]

    def training_label(self, batch: Batch, key: Array, *, train: bool) -> Array | None:
        """The same; in training a share of them, drawn with `key`, is "no class"."""
        label = self.label_of(batch)
        if label is None or not train:
            return label
        dropped = jax.random.bernoulli(key, self.label_dropout, label.shape)
        return jnp.where(dropped, self.null_label(len(label)), label)

    @property
    def cond(self) -> tuple[str, ...]:
        """What sampling needs beside noise."""
        return () if self.num_classes is None else ("label",)


def make_denoiser(
    config: ConfigDict,
    *,
    schedule: Mapping[str, Any],
    network: Mapping[str, Any],
    prediction: str = "eps",
    variance: str = "small",
    conditional: bool = False,
    label_dropout: float = 0.0,
) -> Denoiser:
    """Builds and checks the denoiser that a config describes.

    Args:
        config: Resolved; its data and dtype are read.
        schedule: Arguments of `schedules.make`.
        network: Arguments of `UNet` beyond those that the data decide.
        prediction: "eps", "x0" or "v".
        variance: "small", "large" or "learned".
        conditional: Whether the network takes the label.
        label_dropout: Share of training labels replaced by "no class".

    Raises:
        ConfigError: For an image that the U-Net cannot halve, unknown names, labels
            that the data lack, or a share out of range.
    """
    if not 0 <= label_dropout <= 1:
        raise ConfigError(
            f"config.model.label_dropout must be in [0, 1], got {label_dropout}"
        )
    if variance not in ("small", "large", "learned"):
        raise ConfigError(
            f"config.model.variance must be 'small' or 'large', got {variance!r}"
        )
    num_classes = classes(config) if conditional else None
    shape = image_shape(config)
    a = make_alphas_cumprod(schedule)
    unet = make_network(
        UNet,
        config,
        network,
        out_channels=shape[-1] * (2 if variance == "learned" else 1),
        num_classes=num_classes,
        time_scale=len(a),
    )
    try:
        processes.check_prediction(prediction)
    except ValueError as error:
        raise ConfigError(f"config.model: {error}") from None
    return Denoiser(unet, a, prediction, variance, shape, num_classes, label_dropout)


def make_classifier(
    config: ConfigDict, network: Mapping[str, Any], num_steps: int
) -> NoisyClassifier:
    """Builds and checks the noisy classifier that a config describes.

    Raises:
        ConfigError: For data without labels, an image that the network cannot halve, or
            unknown names.
    """
    return make_network(
        NoisyClassifier,
        config,
        network,
        num_classes=classes(config),
        time_scale=num_steps,
    )


def make_network(
    cls: type[Trunk], config: ConfigDict, network: Mapping[str, Any], **fixed: Any
) -> Any:
    """Builds and checks a network of diffusion.

    Args:
        cls: `UNet` or `NoisyClassifier`.
        config: Resolved; its data and dtype are read.
        network: Arguments that the config gives.
        **fixed: Arguments that other parts of the config decide.

    Raises:
        ConfigError: For unknown names, those of `fixed`, heads that do not divide the
            features, or an image that the network cannot halve.
    """
    fixed["dtype"] = jnp.dtype(compute_dtype(config))
    if taken := sorted(set(network) & set(fixed)):
        raise ConfigError(
            f"config.model.network must leave {taken} out: they follow from the data, "
            "the schedule and config.dtype"
        )
    module = call(cls, {**network, **fixed}, where=f"config.model ({cls.__name__})")
    height, width, _ = image_shape(config)
    sides = [min(height, width) >> level for level in range(len(module.multipliers))]
    attends = [side in module.attention_resolutions for side in sides]
    attends[-1] = True  # In the middle.
    try:
        check_image_size(height, width, module.multipliers)
        for multiplier in itertools.compress(module.multipliers, attends):
            features = module.features * multiplier
            split_heads(features, module.num_heads, module.head_features)
    except ValueError as error:
        raise ConfigError(f"config.model: {error}") from None
    if unmet := sorted(set(module.attention_resolutions) - set(sides)):
        warnings.warn(
            f"no level attends at {unmet} of attention_resolutions: on images of "
            f"{height}x{width} the shorter sides of the levels are {sides}",
            stacklevel=2,
        )
    return module


def make_alphas_cumprod(schedule: Mapping[str, Any]) -> np.ndarray:
    """float64 [T] from the arguments of `schedules.make`."""
    try:
        betas = call(schedules.make, schedule, where="config.model.schedule")
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config.model.schedule: {error}") from None
    return schedules.alphas_cumprod(betas)


@dataclass(frozen=True)
class Sampler:
    """A walk from noise to images along some steps of the denoiser's schedule.

    Attributes:
        denoiser: Whose schedule is walked.
        steps: Steps to visit, rising, int [S].
        name: "ddpm" (ancestral) or "ddim".
        variance: Of "ddpm": "small", "large" or "learned".
        eta: Of "ddim": 0 is deterministic, 1 has the posterior's variance.
        clip: Whether each guess of x0 is held in [-1, 1].
        guidance_scale: Of the method's guidance; 1 is the conditional model itself.
    """

    denoiser: Denoiser
    steps: np.ndarray
    name: str
    variance: str
    eta: float
    clip: bool
    guidance_scale: float

    def sample(
        self, eps_fn: Callable, keys: Array, grad_fn: Callable | None = None
    ) -> Array:
        """Images [N, H, W, C] from keys [N]; grad_fn is a classifier's, scaled."""
        walk = dict(alphas_cumprod=self.denoiser.alphas_cumprod, steps=self.steps)
        noise = samplers.initial_noise(keys, self.denoiser.shape)
        if self.name == "ddpm":
            walk.update(variance=self.variance, clip=self.clip, grad_fn=grad_fn)
            return samplers.ancestral(eps_fn, noise, keys, **walk)
        if grad_fn is not None:
            a = self.denoiser.alphas_cumprod
            eps_fn = guidance.classifier_eps(eps_fn, grad_fn, alphas_cumprod=a)
        return samplers.ddim(eps_fn, noise, keys, eta=self.eta, clip=self.clip, **walk)

    @property
    def invertible_steps(self) -> np.ndarray:
        """The steps at which something of the image is left, one at least.

        Where the kept power a is nearly zero, as at the end of a cosine schedule, the
        guess of x0 is the network's error over sqrt(a), and no way leads back.
        """
        a = self.denoiser.alphas_cumprod[self.steps]
        return self.steps[a >= min(MIN_INVERTIBLE_POWER, a[0])]

    def encode(self, eps_fn: Callable, x0: Array) -> Array:
        """The noise that `decode` turns into x0 again; the more steps, the closer."""
        walk = dict(
            alphas_cumprod=self.denoiser.alphas_cumprod, steps=self.invertible_steps
        )
        return samplers.ddim_encode(eps_fn, x0, **walk)

    def decode(self, eps_fn: Callable, noise: Array) -> Array:
        """Deterministic DDIM from given noise [N, H, W, C]."""
        walk = dict(
            alphas_cumprod=self.denoiser.alphas_cumprod, steps=self.invertible_steps
        )
        return samplers.ddim(eps_fn, noise, **walk)


def make_sampler(
    denoiser: Denoiser,
    *,
    name: str = "ddpm",
    num_steps: int | None = None,
    spacing: str = "uniform",
    variance: str | None = None,
    eta: float = 0.0,
    clip: bool = True,
    guidance_scale: float = 1.0,
) -> Sampler:
    """Checks config.sampler and makes the walk it describes.

    Args:
        denoiser: Whose schedule is walked.
        name: "ddpm" or "ddim".
        num_steps: Steps to visit; None is all T.
        spacing: Of those steps, "uniform" or "quadratic".
        variance: Of "ddpm"; None is the denoiser's own.
        eta: Of "ddim".
        clip: See `Sampler`.
        guidance_scale: See `Sampler`.

    Raises:
        ConfigError: For an unknown name, or values of another type or out of range.
    """
    kinds = {
        "num_steps": (num_steps, (int, type(None)), "a whole number or None"),
        "eta": (eta, (int, float), "a number"),
        "clip": (clip, bool, "True or False"),
        "guidance_scale": (guidance_scale, (int, float), "a number"),
    }
    for field, (value, kind, wanted) in kinds.items():
        if not isinstance(value, kind):
            raise ConfigError(f"sampler.{field} must be {wanted}, got {value!r}")
    if name not in ("ddpm", "ddim"):
        raise ConfigError(f"sampler.name must be 'ddpm' or 'ddim', got {name!r}")
    variance = variance or denoiser.variance
    if variance not in ("small", "large", "learned"):
        raise ConfigError(
            f"sampler.variance must be 'small', 'large' or 'learned', got {variance!r}"
        )
    if variance == "learned" != denoiser.variance:
        raise ConfigError(
            "sampler.variance='learned' needs a model that was trained to learn it, "
            "such as method 'diffusion.improved_ddpm'"
        )
    if not 0 <= eta <= (name == "ddim"):
        raise ConfigError(
            f"sampler.eta must be in [0, 1] with 'ddim' and 0 with 'ddpm', got {eta}"
        )
    total = len(denoiser.alphas_cumprod)
    try:
        visited = total if num_steps is None else num_steps
        steps = schedules.timesteps(total, visited, spacing)
    except ValueError as error:
        raise ConfigError(f"sampler: {error}") from None
    return Sampler(denoiser, steps, name, variance, eta, clip, guidance_scale)


def as_method(denoiser: Denoiser, config: ConfigDict, **fields: Any) -> Method:
    """The Method around a denoiser; `fields` are its players and what else differs.

    Raises:
        ConfigError: For a sampler that does not fit, or guidance by a network that was
            not trained for it.
    """
    sampler = call(make_sampler, config.sampler, denoiser, where="config.sampler")
    if "sample" not in fields:
        check_guidance(denoiser, sampler.guidance_scale)

    def sample(
        params: Params, model_state: ModelState, keys: Array, cond: Mapping[str, Array]
    ) -> Array:
        eps_fn = denoiser.guided_eps_fn(params, cond, sampler.guidance_scale)
        return sampler.sample(eps_fn, keys)

    def encode(
        params: Params, model_state: ModelState, key: Array, batch: Batch
    ) -> Array:
        eps_fn = denoiser.eps_fn(params, denoiser.label_of(batch))
        return sampler.encode(eps_fn, images.to_float(batch["image"]))

    def decode(
        params: Params,
        model_state: ModelState,
        latents: Array,
        cond: Mapping[str, Array],
    ) -> Array:
        return sampler.decode(denoiser.eps_fn(params, denoiser.label_of(cond)), latents)

    def prior(
        params: Params, model_state: ModelState, keys: Array, cond: Mapping[str, Array]
    ) -> Array:
        return samplers.initial_noise(keys, denoiser.shape)

    defaults = dict(
        init=denoiser.init,
        sample=sample,
        log_likelihood=denoiser.log_likelihood,
        bound=True,
        encode=encode,
        decode=decode,
        prior=prior,
        cond=denoiser.cond,
    )
    return Method(**(defaults | fields))


def check_guidance(denoiser: Denoiser, guidance_scale: float) -> None:
    """Raises ConfigError if the denoiser cannot guide itself and is asked to."""
    if guidance_scale == 1 or (denoiser.num_classes and denoiser.label_dropout > 0):
        return
    raise ConfigError(
        f"sampler.guidance_scale={guidance_scale} needs a network that knows both the "
        'class and "no class": train with config.model.conditional=True and '
        "config.model.label_dropout=0.1, or leave the scale at 1"
    )
