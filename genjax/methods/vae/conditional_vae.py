"""The conditional variational autoencoder: p(x | z, label) and q(z | x, label).

Sohn et al., Learning Structured Output Representation using Deep Conditional Generative
Models, NIPS 2015, with the prior of z independent of the label, as in model M2 of
Kingma et al., arXiv:1406.5298, where all labels are known.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from genjax.config import call
from genjax.methods.vae._gaussian import make_model, make_objective
from genjax.methods.vae._latent import as_method
from genjax.types import Method


def make(config: ConfigDict) -> Method:
    """One player, "vae"; config.model holds the arguments of `conditional_vae`."""
    return call(conditional_vae, config.model, config, where="config.model")


def conditional_vae(
    config: ConfigDict,
    *,
    latent_features: int,
    network: Mapping[str, Any],
    decoder: str = "bernoulli",
    binarize: str = "dynamic",
    shared_scale: bool = False,
    beta: float = 1.0,
    free_bits: float = 0.0,
) -> Method:
    """A VAE whose encoder and decoder see the label; it bounds log p(x | label).

    Args:
        config: Resolved.
        latent_features: As in `vae.vae`, as for all the others.
        network: Of encoder and decoder.
        decoder: p(x | z, label).
        binarize: What "bernoulli" sees.
        shared_scale: Whether all pixels share one scale.
        beta: Factor of the KL term in the loss.
        free_bits: Nats of KL that cost nothing, for each dimension of z.
    """
    model = make_model(
        config,
        latent_features=latent_features,
        network=network,
        decoder=decoder,
        binarize=binarize,
        shared_scale=shared_scale,
        conditional=True,
    )
    return as_method(model, make_objective(model, beta, free_bits))
