"""The variational autoencoder with categorical latents, relaxed by Gumbel-softmax.

Jang et al., arXiv:1611.01144.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from genjax.config import ConfigError, call, check_count
from genjax.losses import variational
from genjax.methods.vae._latent import (
    LatentModel,
    Terms,
    as_method,
    make_coders,
    make_pixels,
)
from genjax.types import Method, Params


def make(config: ConfigDict) -> Method:
    """One player, "vae"; config.model holds the arguments of `categorical_vae`."""
    return call(categorical_vae, config.model, config, where="config.model")


def categorical_vae(
    config: ConfigDict,
    *,
    num_latents: int,
    num_categories: int,
    network: Mapping[str, Any],
    decoder: str = "bernoulli",
    binarize: str = "dynamic",
    shared_scale: bool = False,
    beta: float = 1.0,
    temperature: float = 1.0,
    min_temperature: float = 0.5,
    anneal_rate: float = 1e-4,
    straight_through: bool = False,
) -> Method:
    """A VAE whose latents are N independent classes, one-hot [N, K], uniform a priori.

    In training the decoder sees relaxed draws at the temperature
    max(min_temperature, temperature * exp(-anneal_rate * step)); in evaluation and in
    the likelihood it sees classes. The KL term is that of the classes, exact, in both.
    The mean of the latents, which `encode` gives, are the classes' probabilities.

    Args:
        config: Resolved.
        num_latents: N.
        num_categories: K.
        network: As in `vae.vae`, as for the next four.
        decoder: p(x | z).
        binarize: What "bernoulli" sees.
        shared_scale: Whether all pixels share one scale.
        beta: Factor of the KL term in the loss.
        temperature: Of the first step.
        min_temperature: The lowest.
        anneal_rate: Of the fall, per step.
        straight_through: Whether the decoder sees classes in training too, with the
            gradient of the relaxed draw.

    Reference: arXiv:1611.01144, Sec. 2 and 4.
    """
    check_count("config.model.num_latents", num_latents)
    check_count("config.model.num_categories", num_categories)
    if min(temperature, min_temperature) <= 0 or anneal_rate < 0:
        raise ConfigError(
            "config.model: temperature and min_temperature must be above 0 and "
            f"anneal_rate at least 0, got {temperature}, {min_temperature} and "
            f"{anneal_rate}"
        )
    pixels = make_pixels(config, decoder, binarize)
    encoder, decoder_module = make_coders(
        config,
        network,
        latent_shape=(num_latents, num_categories),
        out_shape=pixels.out_shape,
        shared_scale=shared_scale,
    )
    modules = {"encoder": encoder, "decoder": decoder_module}
    model = CategoricalModel(pixels, modules, None, (num_latents, num_categories))

    def objective(
        params, posterior, x, context, key, *, step, train
    ) -> tuple[Array, Terms]:
        if train:
            falling = temperature * jnp.exp(-anneal_rate * step)
            tau = jnp.maximum(min_temperature, falling)
            z = variational.gumbel_softmax(key, posterior, tau, straight_through)
            terms = model.terms_at(params, posterior, x, z)
        else:
            terms = model.terms(params, posterior, x, context, key)
        return terms["reconstruction"] + beta * terms["kl"], terms

    return as_method(model, objective)


@dataclass(frozen=True)
class CategoricalModel(LatentModel):
    """One-hot latents; the posterior is their logits [B, N, K].

    Attributes:
        latent_shape: (N, K).
    """

    latent_shape: tuple[int, int] = (0, 0)

    def example_inputs(
        self, x: Array, context: Array | None
    ) -> dict[str, tuple[Array | None, ...]]:
        """{network: arguments}, with latents of zeros."""
        z = jnp.zeros((len(x), *self.latent_shape))
        return {"encoder": (x,), "decoder": (z,)}

    def infer(self, params: Params, x: Array, context: Array | None) -> Array:
        """Logits of q(z | x), [B, N, K]."""
        return self.apply(params, "encoder", x)

    def terms_at(self, params: Params, logits: Array, x: Array, z: Array) -> Terms:
        """Reconstruction from latents z [B, N, K], and the exact KL term."""
        nll = self.pixels.nll(self.outputs(params, z, None), x)
        kl = variational.categorical_kl(logits, jnp.zeros(self.latent_shape))
        return {"reconstruction": nll, "kl": kl.sum(-1)}

    def draw(
        self,
        params: Params,
        posterior: Array,
        x: Array,
        context: Array | None,
        key: Array,
    ) -> tuple[Terms, Array]:
        """One draw of classes, as `LatentModel.draw` says."""
        z = self.classes(key, posterior)
        terms = self.terms_at(params, posterior, x, z)
        log_q = jnp.sum(z * jax.nn.log_softmax(posterior), axis=(1, 2))
        count, categories = self.latent_shape
        log_ratio = log_q + count * jnp.log(float(categories))
        terms["kl"] = log_ratio
        return terms, -sum(terms.values())

    def terms(
        self,
        params: Params,
        posterior: Array,
        x: Array,
        context: Array | None,
        key: Array,
    ) -> Terms:
        """Those of `draw`, with the exact KL."""
        return self.terms_at(params, posterior, x, self.classes(key, posterior))

    def classes(self, key: Array, logits: Array) -> Array:
        """Draws one-hot classes [..., K] from logits."""
        index = jax.random.categorical(key, logits)
        return jax.nn.one_hot(index, logits.shape[-1])

    def mean(self, posterior: Array) -> Array:
        """Probabilities of the classes, [B, N, K]."""
        return jax.nn.softmax(posterior)

    def prior(self, params: Params, keys: Array) -> Array:
        """Draws uniform classes, one-hot [N, ...]."""
        logits = jnp.zeros(self.latent_shape)
        return jax.vmap(lambda key: self.classes(key, logits))(keys)
