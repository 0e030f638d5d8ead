"""Image transformers: causal attention, full or sparse, over the values of an image.

Parmar et al., Image Transformer, arXiv:1802.05751.
Child et al., Generating Long Sequences with Sparse Transformers, arXiv:1904.10509.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from genjax.config import call
from genjax.methods.autoregressive._pixels import PixelModel, make_head
from genjax.methods.autoregressive._transformer import cached_steps, make_network
from genjax.types import Method


def make(config: ConfigDict) -> Method:
    """One player, "transformer"; config.model holds those of `image_transformer`."""
    return call(image_transformer, config.model, config, where="config.model")


def image_transformer(
    config: ConfigDict, *, output: Mapping[str, Any], network: Mapping[str, Any]
) -> Method:
    """A transformer on images, read pixel by pixel and channel by channel.

    Args:
        config: Resolved.
        output: name, the distribution of a pixel, and its arguments; see
            `_pixels.make_head`. A mixture draws the channels of a pixel at once.
        network: See `make_network`.
    """
    head = make_head(config, output)
    module = make_network(config, network, head, "config.model.network")
    steps_fn = cached_steps(module, head)
    return PixelModel("transformer", module, head, steps_fn, sequence=True).method(
        config
    )
