"""PixelCNN++: a mixture of logistics for each pixel, from several resolutions.

Salimans et al., PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture
Likelihood and Other Modifications, arXiv:1701.05517.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from genjax.config import ConfigError, call
from genjax.methods import _inputs
from genjax.methods.autoregressive._convolutional import cached_steps, make_network
from genjax.methods.autoregressive._pixels import PixelModel, make_head
from genjax.networks.pixelcnn_pp import PixelCNNPP
from genjax.types import Method


def make(config: ConfigDict) -> Method:
    """One player, "pixelcnn"; config.model holds the arguments of `pixelcnn_pp`."""
    return call(pixelcnn_pp, config.model, config, where="config.model")


def pixelcnn_pp(
    config: ConfigDict,
    *,
    network: Mapping[str, Any],
    output: Mapping[str, Any],
    conditional: bool = False,
) -> Method:
    """PixelCNN++ on images.

    Args:
        config: Resolved.
        network: features, num_blocks, num_levels and dropout of
            `networks.pixelcnn_pp.PixelCNNPP`.
        output: The distribution of a pixel, see `make_head`; a mixture of logistics in
            the paper. The other two need images of one channel.
        conditional: Whether the blocks see the label.
    """
    head = make_head(config, output)
    if head.parts > 1:
        raise ConfigError(
            f"config.model.output.name={head.name!r} draws {head.parts} channels one "
            f"after the other, but {config.method!r} all at once: take "
            "'logistic_mixture'"
        )
    module = make_network(config, PixelCNNPP, network, head)
    dropout = module.dropout
    if not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise ConfigError(
            f"config.model.network.dropout must be from 0 on and below 1, got {dropout}"
        )
    return PixelModel(
        "pixelcnn",
        module,
        head,
        cached_steps(module, head),
        num_classes=_inputs.classes(config) if conditional else None,
    ).method(config)
