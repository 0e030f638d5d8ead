"""PixelCNN: masked convolutions give each pixel a distribution.

van den Oord et al., Pixel Recurrent Neural Networks, arXiv:1601.06759.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from genjax.config import call
from genjax.methods.autoregressive._convolutional import cached_steps, make_network
from genjax.methods.autoregressive._pixels import PixelModel, make_head
from genjax.networks.pixelcnn import PixelCNN
from genjax.types import Method


def make(config: ConfigDict) -> Method:
    """One player, "pixelcnn"; config.model holds the arguments of `pixelcnn`."""
    return call(pixelcnn, config.model, config, where="config.model")


def pixelcnn(
    config: ConfigDict, *, network: Mapping[str, Any], output: Mapping[str, Any]
) -> Method:
    """PixelCNN on images, with the blind spot of its masks.

    Args:
        config: Resolved.
        network: features, num_blocks and out_features of `networks.pixelcnn.PixelCNN`.
        output: The distribution of a pixel, see `make_head`.
    """
    head = make_head(config, output)
    module = make_network(config, PixelCNN, network, head, groups=head.parts)
    return PixelModel("pixelcnn", module, head, cached_steps(module, head)).method(
        config
    )
