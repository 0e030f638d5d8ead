"""A prior over the codes of a trained VQ-VAE, which so becomes a generative model.

van den Oord et al., Neural Discrete Representation Learning, arXiv:1711.00937, Sec. 3.3
and 4. An earlier phase or config.init_from brings the VQ-VAE, which stays as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from genjax.config import ConfigError, call, choose
from genjax.methods import _inputs
from genjax.methods.autoregressive import _convolutional, _transformer
from genjax.methods.autoregressive._pixels import Head, PixelModel
from genjax.methods.vae import vqvae as vector_quantized
from genjax.networks.gated_pixelcnn import CodePixelCNN
from genjax.types import Batch, Method, ModelState, Params, Player

NETWORKS = ("gated_pixelcnn", "transformer")


def make(config: ConfigDict) -> Method:
    """One player, "prior"; config.model holds the arguments of `vq_prior`."""
    return call(vq_prior, config.model, config, where="config.model")


def vq_prior(
    config: ConfigDict,
    *,
    vqvae: Mapping[str, Any],
    prior: Mapping[str, Any],
    conditional: bool = False,
) -> Method:
    """Draws codes from an autoregressive network, and images of them by the decoder.

    "loss" is -log P(codes of x) in nats per image, and "bits_per_code" the same for
    each code. With the decoder's -log P(x | codes) it bounds -log P(x): see
    `vae.vqvae.Model.bound`.

    Args:
        config: Resolved.
        vqvae: Arguments of `vae.vqvae.make_model`, those it was trained with.
        prior: name, "gated_pixelcnn" or "transformer", and the network's own fields:
            those of the method of that name, or of `_transformer.make_network`.
        conditional: Whether the prior takes the label; "gated_pixelcnn" only.
    """
    where = "config.model.vqvae"
    model = call(vector_quantized.make_model, vqvae, config, where, where=where)
    factor = 2**model.encoder.num_levels
    height, width, _ = _inputs.image_shape(config)
    grid = (height // factor, width // factor, 1)
    if model.num_codes < 2:
        raise ConfigError(f"{where}.num_codes must be at least 2 for a prior, got 1")
    head = CodeHead("categorical", grid, model.num_codes)
    codes = over_codes(config, head, prior, conditional)
    (player,) = codes.players
    frozen = ("error",) if model.by_gradient else ("error", "codebook")

    def with_codes(params: Params, model_state: ModelState, batch: Batch) -> Batch:
        return {**batch, "code": model.encode(params, model_state, None, batch)}

    def init(key: Array, batch: Batch) -> tuple[Params, ModelState]:
        key, prior_key = jax.random.split(key)
        params, model_state = model.init(key, batch)
        own, _ = codes.init(prior_key, with_codes(params, model_state, batch))
        return {**params, **own}, {name: model_state[name] for name in frozen}

    def loss(
        params: Params,
        model_state: ModelState,
        batch: Batch,
        key: Array,
        *,
        step: Array,
        train: bool,
    ) -> tuple[Array, tuple[ModelState, dict[str, Array]]]:
        batch = with_codes(params, model_state, batch)
        nll, (_, metrics) = player.loss(params, {}, batch, key, step=step, train=train)
        return nll, ({}, {"bits_per_code": metrics["bits_per_dim"]})

    def log_likelihood(
        params: Params, model_state: ModelState, key: Array, batch: Batch
    ) -> tuple[Array, dict[str, Array]]:
        """log P(x | codes) + log P(codes), nats [B], and minus these two."""
        batch = with_codes(params, model_state, batch)
        log_prior, _ = codes.log_likelihood(params, {}, key, batch)
        return model.bound(params, model_state, batch, batch["code"], log_prior)

    def draw_codes(
        params: Params, model_state: ModelState, keys: Array, cond: Mapping[str, Array]
    ) -> Array:
        return head.from_images(codes.sample(params, {}, keys, cond))[..., 0]

    def sample(
        params: Params, model_state: ModelState, keys: Array, cond: Mapping[str, Array]
    ) -> Array:
        latents = draw_codes(params, model_state, keys, cond)
        return model.decode(params, model_state, latents, cond)

    return Method(
        init=init,
        players=(Player("prior", ("prior",), loss),),
        sample=sample,
        log_likelihood=log_likelihood,
        bound=True,
        encode=model.encode,
        decode=model.decode,
        prior=draw_codes,
        cond=codes.cond,
        frozen=frozen,
    )


@dataclass(frozen=True)
class CodeHead(Head):
    """Codes as the levels of a picture of one channel, in batches with "code"."""

    def levels(self, batch: Batch, key: Array) -> Array:
        """The codes, int32 [B, h, w, 1]."""
        return batch["code"][..., None]

    def floats(self, levels: Array) -> Array:
        """Their places; -1, not drawn yet, has one of its own, below all others."""
        return 2 * levels.astype(jnp.float32) / (self.num_levels - 1) - 1


def over_codes(
    config: ConfigDict, head: CodeHead, prior: Mapping[str, Any], conditional: bool
) -> Method:
    """The prior alone: a method whose images are places of codes, [B, h, w, 1].

    Args:
        config: Resolved.
        head: Of the grid of codes.
        prior: See `vq_prior`.
        conditional: Likewise.
    """
    where, fields = "config.model.prior", dict(prior)
    name = fields.pop("name", None)
    choose(dict.fromkeys(NETWORKS), name, f"{where}.name")
    num_classes = _inputs.classes(config) if conditional else None
    if name == "transformer":
        if conditional:
            raise ConfigError(
                "config.model.conditional=True needs config.model.prior.name="
                "'gated_pixelcnn': the transformer takes no label"
            )
        module = _transformer.make_network(config, fields, head, where)
        steps_fn = _transformer.cached_steps(module, head)
        return PixelModel("prior", module, head, steps_fn, sequence=True).method(config)
    module = _convolutional.make_network(
        config,
        CodePixelCNN,
        fields,
        head,
        where,
        in_features=fields.get("features", CodePixelCNN.features),
        num_codes=head.num_levels,
    )
    _convolutional.check_kernels(module, where)
    steps_fn = _convolutional.cached_steps(module, head)
    return PixelModel("prior", module, head, steps_fn, num_classes=num_classes).method(
        config
    )
