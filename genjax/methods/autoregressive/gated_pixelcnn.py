"""Gated PixelCNN: two stacks of gated masked convolutions, without a blind spot.

van den Oord et al., Conditional Image Generation with PixelCNN Decoders,
arXiv:1606.05328.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from genjax.config import call
from genjax.methods import _inputs
from genjax.methods.autoregressive._convolutional import (
    cached_steps,
    check_kernels,
    make_network,
)
from genjax.methods.autoregressive._pixels import PixelModel, make_head
from genjax.networks.gated_pixelcnn import GatedPixelCNN
from genjax.types import Method


def make(config: ConfigDict) -> Method:
    """One player, "pixelcnn"; config.model holds the arguments of `gated_pixelcnn`."""
    return call(gated_pixelcnn, config.model, config, where="config.model")


def gated_pixelcnn(
    config: ConfigDict,
    *,
    network: Mapping[str, Any],
    output: Mapping[str, Any],
    conditional: bool = False,
) -> Method:
    """Gated PixelCNN on images.

    Args:
        config: Resolved.
        network: features, num_layers, kernel_size, first_kernel_size and out_features
            of `networks.gated_pixelcnn.GatedPixelCNN`.
        output: The distribution of a pixel, see `make_head`.
        conditional: Whether the gates see the label (Sec. 2.3, Eq. 4).
    """
    head = make_head(config, output)
    module = make_network(config, GatedPixelCNN, network, head, groups=head.parts)
    check_kernels(module)
    return PixelModel(
        "pixelcnn",
        module,
        head,
        cached_steps(module, head),
        num_classes=_inputs.classes(config) if conditional else None,
    ).method(config)
