"""Glow: steps of actnorm, an invertible 1 x 1 convolution and an affine coupling.

Kingma & Dhariwal, Glow: Generative Flow with Invertible 1x1 Convolutions,
arXiv:1807.03039. Learned dequantisation is Ho et al., Flow++, arXiv:1902.00275.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from ml_collections import ConfigDict

from genjax.config import call, check_count, choose, compute_dtype
from genjax.methods.flow._density import (
    as_method,
    check_halvings,
    make_flow,
    make_net,
    make_space,
)
from genjax.networks.flow import AFFINE, ActNorm, Chain, FactorOut, Repeated, Squeezed
from genjax.networks.flow_nets import ZeroConv
from genjax.networks.glow import glow_steps
from genjax.types import Method


def make(config: ConfigDict) -> Method:
    """One player, "flow"; config.model holds the arguments of `glow`."""
    return call(glow, config.model, config, where="config.model")


def glow(
    config: ConfigDict,
    *,
    network: Mapping[str, Any],
    num_steps: int = 32,
    num_levels: int = 3,
    scale: str = "sigmoid",
    learned_prior: bool = True,
    transform: str = "centre",
    alpha: float = 0.05,
    dequantizer: Mapping[str, Any] | None = None,
) -> Method:
    """Glow on images or points, without labels.

    Args:
        config: Resolved.
        network: Of each coupling: name "conv" for images or "mlp" for points, and the
            arguments of `networks.flow_nets.ConvNet` or `DenseNet`.
        num_steps: At each level, the paper's K.
        num_levels: The paper's L; each begins by halving the sides, and each but the
            last ends by splitting half of the dimensions off. Points have no levels.
        scale: Of the couplings: "sigmoid" or "tanh"; see `networks.flow.Coupling`.
        learned_prior: Whether what is split off is normal with a mean and a variance
            that depend on the rest. Its latents are then the standardised noise.
        transform: Of images: "centre", as in the paper, or "logit".
        alpha: Of the logit; see `losses.dequantization.logit`.
        dequantizer: Arguments of `networks.dequantizer.Dequantizer` for learned noise;
            without, noise is uniform in each grey level's bin.
    """
    check_count("config.model.num_steps", num_steps)
    check_count("config.model.num_levels", num_levels)
    choose(dict.fromkeys(AFFINE), scale, "config.model.scale")
    space = make_space(config, transform=transform, alpha=alpha)
    net, dtype = make_net(config, space, network), jnp.dtype(compute_dtype(config))

    def steps() -> Repeated:
        return glow_steps(net.copy(), num_steps, scale)

    def level(index: int) -> Squeezed:
        # After the last step, it is a mean and a variance of the top's latents.
        rest: nn.Module = ActNorm()
        if index < num_levels - 1:
            prior_net = ZeroConv(dtype) if learned_prior else None
            rest = FactorOut(level(index + 1), prior_net)
        return Squeezed(Chain((steps(), rest)))

    if space.images:
        check_halvings(config, num_levels, "config.model.num_levels")
        bijection = level(0)
    else:
        bijection = Chain((steps(), ActNorm()))
    return as_method(make_flow(config, space, bijection, dequantizer), config)
