"""PixelRNN: recurrent layers that scan the image.

van den Oord et al., Pixel Recurrent Neural Networks, arXiv:1601.06759.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from genjax.config import ConfigError, call, check_count, choose, compute_dtype
from genjax.methods.autoregressive._pixels import Head, PixelModel, make_head
from genjax.methods.autoregressive._sequence import Unlabelled
from genjax.networks.pixelrnn import LAYERS, PixelRNN
from genjax.samplers.autoregressive import Steps, copies, per_image
from genjax.types import Method


def make(config: ConfigDict) -> Method:
    """One player, "pixelrnn"; config.model holds the arguments of `pixelrnn`."""
    return call(pixelrnn, config.model, config, where="config.model")


def pixelrnn(
    config: ConfigDict, *, output: Mapping[str, Any], network: Mapping[str, Any]
) -> Method:
    """PixelRNN on images.

    Args:
        config: Resolved.
        output: name, the distribution of a pixel, and its arguments; see
            `_pixels.make_head`.
        network: features, layer ("row_lstm" or "diagonal_bilstm"), num_layers and
            out_features of `networks.pixelrnn.PixelRNN`.
    """
    head, where = make_head(config, output), "config.model.network"
    given = dict(
        num_channels=head.shape[-1],
        num_outputs=head.num_outputs,
        num_groups=head.parts,
        dtype=jnp.dtype(compute_dtype(config)),
    )
    for field in given:
        if field in network:
            raise ConfigError(f"{where} must leave {field!r} out: it follows elsewhere")
    module = call(PixelRNN, {**network, **given}, where=where)
    choose(LAYERS, module.layer, f"{where}.layer")
    for field in ("features", "num_layers", "out_features"):
        check_count(f"{where}.{field}", getattr(module, field))
    for field in ("features", "out_features"):
        if getattr(module, field) % head.parts:
            raise ConfigError(
                f"{where}.{field} must be a multiple of the {head.parts} channels, "
                f"got {getattr(module, field)}"
            )
    steps_fn = make_steps_fn(module, head)
    return PixelModel("pixelrnn", Unlabelled(module), head, steps_fn).method(config)


def make_steps_fn(module: PixelRNN, head: Head) -> Callable[..., Steps]:
    """The sampler's steps: all that a layer remembers is one row of states."""

    def steps_fn(params: Any, num: int, label: None, keys: Array) -> Steps:
        def apply(*args, method):
            return module.apply({"params": params}, *args, method=method)

        def row_fn(own, row, above):
            return apply(own, row, head.floats(above), method="next_row")

        def step_fn(own, position, last):
            place = position.column, position.part
            return apply(own, *place, head.floats(last), method="step")

        return per_image(copies(module.start(head.shape[1]), num), step_fn, row_fn)

    return steps_fn
