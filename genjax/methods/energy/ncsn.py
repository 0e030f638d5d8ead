"""Noise-conditional score networks.

Song & Ermon, Generative Modeling by Estimating Gradients of the Data Distribution,
arXiv:1907.05600. The division of the network's output by sigma and the last denoising
step are of Song & Ermon, Improved Techniques, arXiv:2006.09011.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from genjax.config import ConfigError, call, check_count, compute_dtype
from genjax.losses.energy import denoising_score_matching
from genjax.methods._inputs import floats
from genjax.methods.diffusion._gaussian import make_network
from genjax.networks.energy import TimeMLP
from genjax.networks.layers import activation
from genjax.networks.unet import UNet
from genjax.samplers.diffusion import initial_noise
from genjax.samplers.langevin import annealed_langevin
from genjax.types import Batch, Method, ModelState, Params, Player

Cond = Mapping[str, Array]
TIMES = 1000.0  # Levels lie evenly in it, for embeddings made for diffusion's steps.


def make(config: ConfigDict) -> Method:
    """One player, "score"; config.model holds the arguments of `ncsn`."""
    return call(ncsn, config.model, config, where="config.model")


def ncsn(
    config: ConfigDict,
    *,
    network: Mapping[str, Any],
    sigma_max: float,
    sigma_min: float,
    num_levels: int,
) -> Method:
    """Denoising score matching at many noise levels, on images or points.

    Args:
        config: Resolved.
        network: Arguments of `networks.unet.UNet` for images, or of
            `networks.energy.TimeMLP` for points.
        sigma_max: The first noise level, about the largest distance between examples.
        sigma_min: The last one, below which details are lost.
        num_levels: Levels, of even ratios.
    """
    check_count("config.model.num_levels", num_levels)
    if not 0 < sigma_min <= sigma_max:
        raise ConfigError(
            "config.model needs 0 < sigma_min <= sigma_max, got "
            f"sigma_min={sigma_min} and sigma_max={sigma_max}"
        )
    sigmas = np.geomspace(sigma_max, sigma_min, num_levels)
    walk = call(make_walk, config.sampler, where="config.sampler")
    shape = tuple(config.data.shape)
    model = Scores(score_network(config, network), sigmas, shape, walk)
    images = len(shape) == 3
    return Method(
        init=model.init,
        players=(Player("score", ("score",), model.loss),),
        sample=model.sample,
        complete=model.complete if images else None,
        denoise=model.denoise if images else None,
    )


def score_network(config: ConfigDict, network: Mapping[str, Any]) -> nn.Module:
    """The U-Net of images, or the multilayer perceptron of points."""
    shape = config.data.shape
    if len(shape) == 3:
        fixed = dict(out_channels=shape[-1], num_classes=None, time_scale=TIMES)
        return make_network(UNet, config, network, **fixed)
    fixed = dict(out_features=shape[-1], dtype=jnp.dtype(compute_dtype(config)))
    module = call(TimeMLP, {**network, **fixed}, where="config.model.network")
    try:
        activation(module.activation)
    except ValueError as error:
        raise ConfigError(f"config.model.network: {error}") from None
    return module


@dataclass(frozen=True)
class Walk:
    """config.sampler: annealed Langevin dynamics.

    Attributes:
        num_steps: At each level.
        step_size: In units of sigma^2; see `samplers.langevin.annealed_langevin`.
        temperature: Of the noise's variance.
        denoise: Whether to end with the mean of the clean data.
        start_sigma: Noise that `denoise` takes images to have: where it starts.
    """

    num_steps: int
    step_size: float
    temperature: float
    denoise: bool
    start_sigma: float


def make_walk(
    *,
    num_steps: int = 100,
    step_size: float = 0.1,
    temperature: float = 1.0,
    denoise: bool = True,
    start_sigma: float = 0.5,
) -> Walk:
    """Checks config.sampler; see `Walk`."""
    check_count("config.sampler.num_steps", num_steps)
    numbers = dict(step_size=step_size, start_sigma=start_sigma)
    for name, value in numbers.items():
        if not isinstance(value, (int, float)) or value <= 0:
            raise ConfigError(f"config.sampler.{name} must be above 0, got {value!r}")
    if not isinstance(temperature, (int, float)) or temperature < 0:
        raise ConfigError(
            f"config.sampler.temperature must be at least 0, got {temperature!r}"
        )
    return Walk(num_steps, step_size, temperature, denoise, start_sigma)


@dataclass(frozen=True)
class Scores:
    """A network that knows the score of the data at each noise level.

    Attributes:
        module: (x, times [B], train=) -> x's shape.
        sigmas: Noise levels, falling, [L].
        shape: Of one example.
        walk: How samples are drawn.
    """

    module: nn.Module
    sigmas: np.ndarray
    shape: tuple[int, ...]
    walk: Walk

    def init(self, key: Array, batch: Batch) -> tuple[Params, ModelState]:
        """Fresh weights; no model state."""
        variables = self.module.init(key, floats(batch)[:1], jnp.zeros(1), train=False)
        return {"score": variables["params"]}, {}

    def score_fn(
        self,
        params: Params,
        *,
        train: bool = False,
        key: Array | None = None,
        first: int = 0,
    ) -> Callable[[Array, Array], Array]:
        """(x, index) -> score of data with noise sigmas[first + index].

        The network's output is divided by sigma, since the score's size is about one
        over sigma. Unlike the papers' it sees x over (1 + sigma^2)^0.5, of size one.
        """
        sigmas = jnp.asarray(self.sigmas, jnp.float32)
        rngs = None if key is None else {"dropout": key}

        def score(x: Array, index: Array) -> Array:
            sigma = sigmas[first + index].reshape(-1, *[1] * (x.ndim - 1))
            output = self.module.apply(
                {"params": params["score"]},
                x / jnp.sqrt(1 + sigma**2),
                (first + index) * (TIMES / len(sigmas)),
                train=train,
                rngs=rngs,
            )
            return output.astype(jnp.float32) / sigma

        return score

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
        """Denoising score matching at a random level for each example."""
        loss_key, dropout_key = jax.random.split(key)
        values = denoising_score_matching(
            self.score_fn(params, train=train, key=dropout_key),
            floats(batch),
            loss_key,
            sigmas=self.sigmas,
        )
        return values.mean(), ({}, {})

    def climb(
        self, params: Params, x: Array, keys: Array, first: int = 0, **fields: Any
    ) -> Array:
        """Annealed Langevin dynamics from level `first` on."""
        settings = dict(
            sigmas=self.sigmas[first:],
            num_steps=self.walk.num_steps,
            step_size=self.walk.step_size,
            temperature=self.walk.temperature,
            denoise=self.walk.denoise,
        )
        score_fn = self.score_fn(params, first=first)
        return annealed_langevin(score_fn, x, keys, **(settings | fields))

    def sample(
        self, params: Params, model_state: ModelState, keys: Array, cond: Cond
    ) -> Array:
        """From noise of the first level to data."""
        noise = self.sigmas[0] * initial_noise(keys, self.shape)
        return self.climb(params, noise, keys)

    def complete(
        self,
        params: Params,
        model_state: ModelState,
        keys: Array,
        images: Array,
        known: Array,
        cond: Cond,
    ) -> Array:
        """Sampling whose known pixels are those given, with noise of the same level.

        Reference: Song & Ermon, arXiv:1907.05600, App. B.3, Alg. 2.
        """
        sigmas, mask = jnp.asarray(self.sigmas, jnp.float32), known[..., None]
        noise_keys, keys = jax.vmap(jax.random.split, out_axes=1)(keys)

        def clamp(x: Array, level: Array) -> Array:
            own = jax.vmap(jax.random.fold_in, (0, None))(noise_keys, level)
            noise = initial_noise(own, self.shape)
            return jnp.where(mask, images + sigmas[level] * noise, x)

        start = clamp(sigmas[0] * initial_noise(keys, self.shape), jnp.int32(0))
        drawn = self.climb(params, start, keys, project_fn=clamp)
        return jnp.where(mask, images, drawn)

    def denoise(
        self,
        params: Params,
        model_state: ModelState,
        keys: Array,
        images: Array,
        cond: Cond,
    ) -> Array:
        """Climbs the density without noise, from the level of the images' own."""
        first = int(np.abs(np.log(self.sigmas / self.walk.start_sigma)).argmin())
        return self.climb(params, images, keys, first, temperature=0, denoise=True)
