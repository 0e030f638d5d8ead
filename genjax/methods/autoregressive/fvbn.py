"""Fully visible belief nets: a regression of each pixel on the pixels before it.

Neal, Connectionist learning of belief networks, 1992, as logistic regressions; with
hidden layers they share, MADE: Germain et al., arXiv:1502.03509.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from genjax.config import call, check_count, choose, compute_dtype
from genjax.methods.autoregressive._pixels import Head, PixelModel, make_head
from genjax.methods.autoregressive._sequence import Unlabelled
from genjax.networks.layers import ACTIVATIONS
from genjax.networks.made import MADE, ORDERS, ranks
from genjax.samplers.autoregressive import Steps, copies, per_image
from genjax.types import Method


def make(config: ConfigDict) -> Method:
    """One player, "fvbn"; config.model holds the arguments of `fvbn`."""
    return call(fvbn, config.model, config, where="config.model")


def fvbn(
    config: ConfigDict,
    *,
    output: Mapping[str, Any],
    features: Sequence[int] = (),
    order: str = "raster",
    num_masks: int = 1,
    seed: int = 0,
    direct: bool = False,
    activation: str = "relu",
) -> Method:
    """A belief net on images; with several masks, their equal mixture.

    Training draws a mask for each batch, and sampling one for each image.

    Args:
        config: Resolved.
        output: name, the distribution of a pixel, and its arguments; see
            `_pixels.make_head`.
        features: Widths of MADE's hidden layers; () is one regression for each pixel.
        order: In which pixels (channels) come: "raster" or "random".
        num_masks: Of MADE; with "random" each has an order of its own.
        seed: Of orders and masks.
        direct: Whether pixels also enter the regressions beside MADE's hidden layers.
        activation: Of the hidden layers, a key of `networks.layers.ACTIVATIONS`.
    """
    head = make_head(config, output)
    choose(dict.fromkeys(ORDERS), order, "config.model.order")
    choose(ACTIVATIONS, activation, "config.model.activation")
    check_count("config.model.num_masks", num_masks)
    for width in features:
        check_count("config.model.features", width)
    height, width, channels = head.shape
    module = MADE(
        tuple(features),
        num_sites=height * width * head.parts,
        num_inputs=channels // head.parts,
        num_outputs=head.num_outputs // head.parts,
        order=order,
        num_masks=num_masks,
        seed=seed,
        direct=direct,
        activation=activation,
        dtype=jnp.dtype(compute_dtype(config)),
    )
    return PixelModel(
        "fvbn",
        Unlabelled(module),
        head,
        make_steps_fn(module, head),
        sequence=True,
        log_prob_fn=make_log_prob_fn(module, head),
        order_fn=lambda keys: sites(module)[mask_of(module, keys)],
        drawn_fn=make_drawn_fn(module),
    ).method(config)


def make_log_prob_fn(module: MADE, head: Head):
    """log p(x) of one random mask in training, of the masks' mixture else.

    Reference: Germain et al., arXiv:1502.03509, Sec. 4.2 and 6.1.
    """

    def log_prob_fn(params, key, x, levels, label, train):
        def of_mask(mask: Array) -> Array:
            return -head.nll(module.apply({"params": params}, x, mask), levels)

        if module.num_masks == 1:
            return of_mask(jnp.int32(0))
        if train:
            return of_mask(jax.random.randint(key, (), 0, module.num_masks))
        log_probs = jax.lax.map(of_mask, jnp.arange(module.num_masks))
        return jax.nn.logsumexp(log_probs, axis=0) - math.log(module.num_masks)

    return log_prob_fn


def make_drawn_fn(module: MADE):
    """The outputs of each image under the mask that it is drawn with."""

    def drawn_fn(params, x, keys):
        def one(x: Array, mask: Array) -> Array:
            return module.apply({"params": params}, x[None], mask)[0]

        return jax.vmap(one)(x, mask_of(module, keys))

    return drawn_fn


def make_steps_fn(module: MADE, head: Head):
    """The sampler's steps, one for each rank."""

    def steps_fn(params, num: int, label: None, keys: Array) -> Steps:
        def apply(*args, method):
            return module.apply({"params": params}, *args, method=method)

        def step_fn(own, position, last):
            return apply(own, position.column, head.floats(last), method="step")

        if module.num_masks == 1:
            return per_image(copies(apply(method="start"), num), step_fn)
        masks = mask_of(module, keys)
        cache = jax.vmap(lambda mask: apply(mask, method="start"))(masks)
        return per_image(cache, step_fn)

    return steps_fn


def sites(module: MADE) -> Array:
    """The site of each rank, int [K, S]."""
    order = ranks(module.num_sites, module.num_masks, module.order, module.seed)
    return jnp.asarray(order.argsort(axis=1))


def mask_of(module: MADE, keys: Array) -> Array:
    """The mask that each image is drawn with, int [N]."""
    # The sampler folds its keys with 0..S-1.
    own = jax.vmap(jax.random.fold_in, (0, None))(keys, module.num_sites)
    return jax.vmap(lambda k: jax.random.randint(k, (), 0, module.num_masks))(own)
