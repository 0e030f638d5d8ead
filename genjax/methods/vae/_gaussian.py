"""The model of one level of real latents, with Gaussians or mixtures of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from genjax.config import ConfigError, check_count
from genjax.losses import variational
from genjax.methods import _inputs
from genjax.methods.vae._latent import (
    LatentModel,
    Objective,
    Terms,
    elbo_objective,
    make_coders,
    make_pixels,
)
from genjax.networks.vae import MixturePrior
from genjax.types import Params


class Mixture(NamedTuple):
    """Diagonal Gaussians [..., M, D] with log-probabilities [..., M]."""

    log_probs: Array
    mean: Array
    log_var: Array


@dataclass(frozen=True)
class GaussianModel(LatentModel):
    """p(z) and q(z | x) are Gaussian, or mixtures of Gaussians.

    Attributes:
        latent_features: D.
        num_prior_components: Of p(z); 1 is the standard normal, more are learned.
        num_posterior_components: Of q(z | x).
    """

    latent_features: int = 0
    num_prior_components: int = 1
    num_posterior_components: int = 1

    @property
    def closed_form(self) -> bool:
        """Whether the KL term is one of two Gaussians."""
        return self.num_prior_components == self.num_posterior_components == 1

    def example_inputs(
        self, x: Array, context: Array | None
    ) -> dict[str, tuple[Array | None, ...]]:
        """{network: arguments}, with latents of zeros."""
        z = jnp.zeros((len(x), self.latent_features))
        return {"encoder": (x, context), "decoder": (z, context), "prior": ()}

    def infer(self, params: Params, x: Array, context: Array | None) -> Mixture:
        """q(z | x), arrays [B, M, ...]."""
        outputs = self.apply(params, "encoder", x, context)
        mean, log_var, logits = jnp.split(
            outputs, [self.latent_features, 2 * self.latent_features], axis=-1
        )
        if not logits.size:
            return Mixture(jnp.zeros(mean.shape[:2]), mean, log_var)
        return Mixture(jax.nn.log_softmax(logits[..., 0]), mean, log_var)

    def prior_mixture(self, params: Params) -> Mixture:
        """p(z), arrays [M, ...]."""
        if self.num_prior_components > 1:
            logits, mean, log_var = self.apply(params, "prior")
            return Mixture(jax.nn.log_softmax(logits), mean, log_var)
        zeros = jnp.zeros((1, self.latent_features))
        return Mixture(jnp.zeros(1), zeros, zeros)

    def kl(self, posterior: Mixture) -> Array:
        """KL(q(z | x) || p(z)) of each dimension, [B, D], if `closed_form`."""
        mean, log_var = posterior.mean[:, 0], posterior.log_var[:, 0]
        return variational.gaussian_kl(mean, log_var, 0.0, 0.0)

    def draw(
        self,
        params: Params,
        posterior: Mixture,
        x: Array,
        context: Array | None,
        key: Array,
    ) -> tuple[Terms, Array]:
        """One draw from each component of q, weighted by the components' probabilities.

        Expectations under q, of the terms and of p(x, z) / q(z | x), are then sums over
        components of expectations under Gaussians, so every gradient is one of a
        reparameterisation, those of the probabilities too.

        Reference: Morningstar et al., arXiv:2003.01687 (SELBO and SIWAE).
        """
        eps = jax.random.normal(key, posterior.mean.shape)
        z = posterior.mean + jnp.exp(0.5 * posterior.log_var) * eps

        def terms_at(z: Array) -> Terms:
            outputs = self.outputs(params, z, context)
            log_q = variational.mixture_log_prob(z, *posterior)
            log_p = variational.mixture_log_prob(z, *self.prior_mixture(params))
            return {"reconstruction": self.pixels.nll(outputs, x), "kl": log_q - log_p}

        terms = jax.vmap(terms_at, in_axes=1, out_axes=1)(z)
        log_weights = posterior.log_probs - sum(terms.values())
        probs = jnp.exp(posterior.log_probs)
        means = {name: jnp.sum(probs * term, 1) for name, term in terms.items()}
        return means, jax.nn.logsumexp(log_weights, axis=1)

    def terms(
        self,
        params: Params,
        posterior: Mixture,
        x: Array,
        context: Array | None,
        key: Array,
    ) -> Terms:
        """Those of `draw`, with the KL in closed form between single Gaussians."""
        terms, _ = self.draw(params, posterior, x, context, key)
        if self.closed_form:
            terms["kl"] = self.kl(posterior).sum(-1)
        return terms

    def mean(self, posterior: Mixture) -> Array:
        """The mean of q(z | x), [B, D]."""
        return jnp.sum(jnp.exp(posterior.log_probs)[..., None] * posterior.mean, axis=1)

    def prior(self, params: Params, keys: Array) -> Array:
        """Draws z [N, D] from p(z)."""
        p = self.prior_mixture(params)

        def one(key: Array) -> Array:
            index_key, eps_key = jax.random.split(key)
            m = jax.random.categorical(index_key, p.log_probs)
            eps = jax.random.normal(eps_key, p.mean.shape[1:])
            return p.mean[m] + jnp.exp(0.5 * p.log_var[m]) * eps

        return jax.vmap(one)(keys)


def make_model(
    config: ConfigDict,
    *,
    latent_features: int,
    network: Mapping[str, Any],
    decoder: str,
    binarize: str,
    shared_scale: bool,
    conditional: bool = False,
    num_prior_components: int = 1,
    num_posterior_components: int = 1,
) -> GaussianModel:
    """Builds and checks the model; see `vae.vae` for the arguments.

    Raises:
        ConfigError: For unknown names, numbers out of range, or labels that the data
            lack.
    """
    counts = dict(
        latent_features=latent_features,
        num_prior_components=num_prior_components,
        num_posterior_components=num_posterior_components,
    )
    for field, value in counts.items():
        check_count(f"config.model.{field}", value)
    pixels = make_pixels(config, decoder, binarize)
    if shared_scale and decoder == "bernoulli":
        raise ConfigError(
            "config.model.shared_scale=True needs a decoder that has a scale, "
            "'gaussian' or 'discretized_logistic', got 'bernoulli'"
        )
    # Of a mixture, each component has a logit too.
    width = 2 * latent_features + (num_posterior_components > 1)
    encoder, decoder_module = make_coders(
        config,
        network,
        latent_shape=(num_posterior_components, width),
        out_shape=pixels.out_shape,
        shared_scale=shared_scale,
    )
    modules = {"encoder": encoder, "decoder": decoder_module}
    if num_prior_components > 1:
        modules["prior"] = MixturePrior(num_prior_components, latent_features)
    num_classes = _inputs.classes(config) if conditional else None
    return GaussianModel(pixels, modules, num_classes, **counts)


def make_objective(model: GaussianModel, beta: float, free_bits: float) -> Objective:
    """Minus the ELBO, changed by beta and free bits.

    Raises:
        ConfigError: For numbers out of range, or free bits without a closed form.
    """
    for field, value in dict(beta=beta, free_bits=free_bits).items():
        if not isinstance(value, (int, float)) or value < 0:
            raise ConfigError(f"config.model.{field} must be at least 0, got {value!r}")
    if not free_bits:
        return elbo_objective(model, beta)
    if not model.closed_form:
        raise ConfigError(
            "config.model.free_bits needs the KL of each dimension, which mixtures "
            "have not: set free_bits=0 or both numbers of components to 1"
        )

    def objective(
        params, posterior, x, context, key, *, step, train
    ) -> tuple[Array, dict[str, Array]]:
        terms = model.terms(params, posterior, x, context, key)
        kl = variational.free_bits(model.kl(posterior), free_bits)
        return terms["reconstruction"] + beta * kl, terms

    return objective
