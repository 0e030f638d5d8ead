"""The variational autoencoder.

Kingma & Welling, Auto-Encoding Variational Bayes, arXiv:1312.6114. beta is Higgins et
al., ICLR 2017; free bits are Kingma et al., arXiv:1606.04934, App. C.8; mixtures as
posteriors are Morningstar et al., arXiv:2003.01687.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from genjax.config import call
from genjax.methods.vae._gaussian import make_model, make_objective
from genjax.methods.vae._latent import as_method
from genjax.types import Method


def make(config: ConfigDict) -> Method:
    """One player, "vae"; config.model holds the arguments of `vae`."""
    return call(vae, config.model, config, where="config.model")


def vae(
    config: ConfigDict,
    *,
    latent_features: int,
    network: Mapping[str, Any],
    decoder: str = "bernoulli",
    binarize: str = "dynamic",
    shared_scale: bool = False,
    beta: float = 1.0,
    free_bits: float = 0.0,
    num_prior_components: int = 1,
    num_posterior_components: int = 1,
) -> Method:
    """A VAE with diagonal Gaussian latents, on images or (Gaussian decoder) points.

    Args:
        config: Resolved.
        latent_features: Dimensions of z.
        network: name "mlp" and the arguments of `networks.vae.MLPCoder`, or "conv" and
            those of `ConvEncoder`; the decoder has the same ones.
        decoder: p(x | z): "bernoulli", "gaussian" with learned variance, or
            "discretized_logistic" on the 256 levels.
        binarize: What "bernoulli" sees: "dynamic" draws each pixel with probability
            image / 255, anew at each step; "threshold" is image > 127; "none" takes
            grey values as targets, and then the ELBO is no bound of a likelihood.
        shared_scale: Whether the Gaussian's variance, or the logistic's scale, is one
            learned number for all pixels rather than an output for each.
        beta: Factor of the KL term in the loss.
        free_bits: Nats of KL that cost nothing, for each dimension of z.
        num_prior_components: Of p(z): 1 is the standard normal; more are a learned
            mixture of Gaussians.
        num_posterior_components: Gaussians in q(z | x); with a mixture on either side
            the KL is estimated from the draws.
    """
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
    return as_method(model, make_objective(model, beta, free_bits))
