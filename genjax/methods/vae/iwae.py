"""The importance weighted autoencoder.

Burda et al., arXiv:1509.00519.
"""

from collections.abc import Mapping
from typing import Any

import jax
from jax import Array
from ml_collections import ConfigDict

from genjax.config import call, check_count
from genjax.losses import variational
from genjax.methods.vae._gaussian import make_model
from genjax.methods.vae._latent import as_method
from genjax.types import Method


def make(config: ConfigDict) -> Method:
    """One player, "vae"; config.model holds the arguments of `iwae`."""
    return call(iwae, config.model, config, where="config.model")


def iwae(
    config: ConfigDict,
    *,
    latent_features: int,
    network: Mapping[str, Any],
    num_importance_samples: int,
    decoder: str = "bernoulli",
    binarize: str = "dynamic",
    shared_scale: bool = False,
    num_prior_components: int = 1,
    num_posterior_components: int = 1,
) -> Method:
    """A VAE trained on the bound of k importance samples.

    The loss is minus the bound of Eq. 8, and its gradient passes through the draws
    (Sec. 3). The metrics "reconstruction", "kl" and "elbo" are means over the same k
    samples: they say what the ELBO is, not what is minimised.

    Args:
        config: Resolved.
        latent_features: As in `vae.vae`, as for all but the next.
        network: Of encoder and decoder.
        num_importance_samples: The paper's k.
        decoder: p(x | z).
        binarize: What "bernoulli" sees.
        shared_scale: Whether all pixels share one scale.
        num_prior_components: Of p(z).
        num_posterior_components: Of q(z | x).
    """
    k = num_importance_samples
    check_count("config.model.num_importance_samples", k)
    model = make_model(
        config,
        latent_features=latent_features,
        network=network,
        decoder=decoder,
        binarize=binarize,
        shared_scale=shared_scale,
        num_prior_components=num_prior_components,
        num_posterior_components=num_posterior_components,
    )

    def objective(
        params, posterior, x, context, key, *, step, train
    ) -> tuple[Array, dict[str, Array]]:
        draws, log_weights = jax.vmap(
            lambda k: model.draw(params, posterior, x, context, k)
        )(jax.random.split(key, k))
        terms = {name: values.mean(axis=0) for name, values in draws.items()}
        return -variational.importance_weighted_bound(log_weights), terms

    return as_method(model, objective)
