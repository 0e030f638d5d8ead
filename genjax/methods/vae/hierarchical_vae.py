"""The variational autoencoder with several levels of latents.

q(z_1 | x) q(z_2 | z_1) ... and p(x | z_1) p(z_1 | z_2) ... p(z_L), all diagonal
Gaussians: Rezende et al., arXiv:1401.4082, Sec. 2; with inference from below, Burda et
al., arXiv:1509.00519, Sec. 3 and 5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from genjax.config import ConfigError, call
from genjax.losses import variational
from genjax.methods.vae._latent import (
    LatentModel,
    Terms,
    as_method,
    elbo_objective,
    make_coders,
    make_pixels,
)
from genjax.types import Method, Params

Gaussian = tuple[Array, Array]  # Mean and log-variance, [B, D].


def make(config: ConfigDict) -> Method:
    """One player, "vae"; config.model holds the arguments of `hierarchical_vae`."""
    return call(hierarchical_vae, config.model, config, where="config.model")


def hierarchical_vae(
    config: ConfigDict,
    *,
    latent_features: Sequence[int],
    network: Mapping[str, Any],
    upper_network: Mapping[str, Any],
    decoder: str = "bernoulli",
    binarize: str = "dynamic",
    shared_scale: bool = False,
    beta: float = 1.0,
) -> Method:
    """A VAE with any number of levels; the latents that users see are z_1.

    Networks "encoder_l" give q(z_l | z_{l-1}) with z_0 = x, and "decoder_l" give
    p(z_{l-1} | z_l). -ELBO is the reconstruction plus a KL term for each level, kl_1 to
    kl_L: the mean of log q(z_l | z_{l-1}) - log p(z_l | z_{l+1}) over q.

    Args:
        config: Resolved.
        latent_features: Dimensions of z_1, ..., z_L.
        network: Between x and z_1, as in `vae.vae`.
        upper_network: Between levels, arguments of `networks.vae.MLPCoder`.
        decoder: As in `vae.vae`, as for the next two.
        binarize: What "bernoulli" sees.
        shared_scale: Whether all pixels share one scale.
        beta: Factor of all KL terms in the loss.
    """
    levels = tuple(latent_features)
    if not levels or not all(isinstance(n, int) and n > 0 for n in levels):
        raise ConfigError(
            "config.model.latent_features must hold the dimensions of each level, such "
            f"as (50, 20), got {latent_features!r}"
        )
    if upper_network.get("name", "mlp") != "mlp":
        raise ConfigError(
            "config.model.upper_network.name must be 'mlp', for latents are no images, "
            f"got {upper_network['name']!r}"
        )
    pixels = make_pixels(config, decoder, binarize)
    modules = {}
    for level, features in enumerate(levels, start=1):
        first = level == 1
        below = pixels.out_shape if first else (levels[level - 2], 2)
        modules[f"encoder_{level}"], modules[f"decoder_{level}"] = make_coders(
            config,
            network if first else upper_network,
            latent_shape=(features, 2),
            out_shape=below,
            shared_scale=shared_scale and first,
            where="config.model.network" if first else "config.model.upper_network",
        )
    model = HierarchicalModel(pixels, modules, None, levels)
    return as_method(model, elbo_objective(model, beta))


@dataclass(frozen=True)
class HierarchicalModel(LatentModel):
    """Levels of Gaussian latents.

    Attributes:
        levels: Dimensions of z_1, ..., z_L.
    """

    levels: tuple[int, ...] = ()

    def example_inputs(
        self, x: Array, context: Array | None
    ) -> dict[str, tuple[Array | None, ...]]:
        """{network: arguments}, with latents of zeros."""
        values = [x, *(jnp.zeros((len(x), features)) for features in self.levels)]
        count = len(self.levels)
        return {
            **{f"encoder_{i + 1}": (values[i],) for i in range(count)},
            **{f"decoder_{i + 1}": (values[i + 1],) for i in range(count)},
        }

    def gaussian(self, params: Params, name: str, z: Array) -> Gaussian:
        """The mean and log-variance that a network says."""
        outputs = self.apply(params, name, z)
        return outputs[..., 0], outputs[..., 1]

    def infer(self, params: Params, x: Array, context: Array | None) -> Gaussian:
        """q(z_1 | x)."""
        return self.gaussian(params, "encoder_1", x)

    def climb(
        self, params: Params, posterior: Gaussian, key: Array
    ) -> tuple[list[Array], list[Gaussian], list[Gaussian]]:
        """Draws all levels from q: the latents, and q and p of each level."""
        latents, q, p = [], [posterior], []
        keys = jax.random.split(key, len(self.levels))
        for level, level_key in enumerate(keys, start=1):
            latents.append(_draw(level_key, *q[-1]))
            if level < len(self.levels):
                name, above = f"encoder_{level + 1}", latents[-1]
                q.append(self.gaussian(params, name, above))
        for level, z in enumerate(latents[1:], start=2):
            p.append(self.gaussian(params, f"decoder_{level}", z))
        zeros = jnp.zeros_like(latents[-1])
        return latents, q, [*p, (zeros, zeros)]

    def draw(
        self,
        params: Params,
        posterior: Gaussian,
        x: Array,
        context: Array | None,
        key: Array,
    ) -> tuple[Terms, Array]:
        """One draw of all levels, as `LatentModel.draw` says."""
        terms, _ = self._at(params, posterior, x, key)
        return terms, -sum(terms.values())

    def terms(
        self,
        params: Params,
        posterior: Gaussian,
        x: Array,
        context: Array | None,
        key: Array,
    ) -> Terms:
        """Those of `draw`, with the KL of the top level in closed form.

        Lower down there is none: both z_l and z_{l+1}, which p(z_l | z_{l+1}) depends
        on, are drawn from q.
        """
        terms, (top_mean, top_log_var) = self._at(params, posterior, x, key)
        kl = variational.gaussian_kl(top_mean, top_log_var, 0.0, 0.0).sum(-1)
        return {**terms, f"kl_{len(self.levels)}": kl}

    def _at(self, params, posterior, x, key):
        latents, q, p = self.climb(params, posterior, key)
        terms = {
            "reconstruction": self.pixels.nll(self.outputs(params, latents[0], None), x)
        }
        for level, z in enumerate(latents):
            log_q = variational.gaussian_log_prob(z, *q[level])
            log_p = variational.gaussian_log_prob(z, *p[level])
            terms[f"kl_{level + 1}"] = jnp.sum(log_q - log_p, axis=-1)
        return terms, q[-1]

    def outputs(self, params: Params, z: Array, context: Array | None) -> Array:
        """The outputs of p(x | z_1)."""
        return self.apply(params, "decoder_1", z)

    def mean(self, posterior: Gaussian) -> Array:
        """The mean of q(z_1 | x), [B, D_1]."""
        return posterior[0]

    def prior(self, params: Params, keys: Array) -> Array:
        """Draws z_1 [N, D_1] by way of all levels above."""
        keys = jax.vmap(lambda key: jax.random.split(key, len(self.levels)))(keys)
        z = jax.vmap(lambda k: jax.random.normal(k, self.levels[-1:]))(keys[:, -1])
        for level in range(len(self.levels), 1, -1):
            p = self.gaussian(params, f"decoder_{level}", z)
            z = jax.vmap(_draw)(keys[:, level - 2], *p)
        return z


def _draw(key: Array, mean: Array, log_var: Array) -> Array:
    return mean + jnp.exp(0.5 * log_var) * jax.random.normal(key, mean.shape)
