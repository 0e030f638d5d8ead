"""NICE: additive couplings, which keep volumes, and one scale for each dimension.

Dinh et al., NICE: Non-linear Independent Components Estimation, arXiv:1410.8516.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from genjax.config import call, check_count
from genjax.methods.flow._density import as_method, make_flow, make_net, make_space
from genjax.networks.flow import Chain, Coupling, Diagonal
from genjax.types import Method


def make(config: ConfigDict) -> Method:
    """One player, "flow"; config.model holds the arguments of `nice`."""
    return call(nice, config.model, config, where="config.model")


def nice(
    config: ConfigDict,
    *,
    network: Mapping[str, Any],
    num_couplings: int = 4,
    transform: str = "centre",
    alpha: float = 0.05,
    dequantizer: Mapping[str, Any] | None = None,
) -> Method:
    """NICE on images, as vectors, or on points, with a Gaussian prior.

    Args:
        config: Resolved.
        network: Of each coupling: name "mlp", and the arguments of
            `networks.flow_nets.DenseNet`.
        num_couplings: Even and odd dimensions move in turn.
        transform: Of images: "centre", or "logit".
        alpha: Of the logit; see `losses.dequantization.logit`.
        dequantizer: Arguments of `networks.dequantizer.Dequantizer` for learned noise;
            without, noise is uniform in each grey level's bin.
    """
    check_count("config.model.num_couplings", num_couplings)
    space = make_space(config, transform=transform, alpha=alpha, flat=True)
    net = make_net(config, space, network)
    couplings = [
        Coupling(net.copy(), "alternate", bool(i % 2), scale="none")
        for i in range(num_couplings)
    ]
    bijection = Chain([*couplings, Diagonal()])
    return as_method(make_flow(config, space, bijection, dequantizer), config)
