"""Real NVP: affine couplings over checkerboards and channels, at several scales.

Dinh et al., Density estimation using Real NVP, arXiv:1605.08803. Activation norms are
Kingma & Dhariwal, Glow, arXiv:1807.03039; learned dequantisation is Ho et al., Flow++,
arXiv:1902.00275.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from ml_collections import ConfigDict

from genjax.config import call, check_count, choose
from genjax.methods.flow._density import (
    as_method,
    check_halvings,
    make_flow,
    make_net,
    make_space,
)
from genjax.networks.flow import NORMS, Chain, Coupling, FactorOut, Squeezed
from genjax.types import Method


def make(config: ConfigDict) -> Method:
    """One player, "flow"; config.model holds the arguments of `realnvp`."""
    return call(realnvp, config.model, config, where="config.model")


def realnvp(
    config: ConfigDict,
    *,
    network: Mapping[str, Any],
    num_couplings: int = 3,
    num_levels: int = 2,
    norm: str = "actnorm",
    transform: str = "logit",
    alpha: float = 0.05,
    dequantizer: Mapping[str, Any] | None = None,
) -> Method:
    """Real NVP on images or points.

    Args:
        config: Resolved.
        network: Of each coupling: name "resnet" for images or "mlp" for points, and the
            arguments of `networks.flow_nets.ResNet` or `DenseNet`.
        num_couplings: Of points, in all. Of images, for each kind of mask at each
            level; the last level has one more, by checkerboard alone.
        num_levels: Of images; each but the last halves the sides and factors out half
            of the dimensions. Points have no levels.
        norm: Before each coupling: "actnorm", or the paper's "batch".
        transform: Of images: "logit", or "centre".
        alpha: Of the logit; see `losses.dequantization.logit`.
        dequantizer: Arguments of `networks.dequantizer.Dequantizer` for learned noise;
            without, noise is uniform in each grey level's bin.
    """
    space = make_space(config, transform=transform, alpha=alpha)
    net = make_net(config, space, network)
    check_count("config.model.num_couplings", num_couplings)
    check_count("config.model.num_levels", num_levels)
    norm_module = choose(NORMS, norm, "config.model.norm")

    def couplings(count: int, mask: str) -> list[nn.Module]:
        parts: list[nn.Module] = []
        for i in range(count):
            parts += [norm_module(), Coupling(net.copy(), mask, bool(i % 2))]
        return parts

    def level(index: int) -> Chain:
        if index == num_levels - 1:
            return Chain(couplings(num_couplings + 1, "checkerboard"))
        inner = [*couplings(num_couplings, "channel"), FactorOut(level(index + 1))]
        outer = couplings(num_couplings, "checkerboard")
        return Chain([*outer, Squeezed(Chain(inner))])

    if space.images:
        check_halvings(config, num_levels, "config.model.num_levels")
        bijection = level(0)
    else:
        bijection = Chain(couplings(num_couplings, "channel"))
    return as_method(make_flow(config, space, bijection, dequantizer), config)
