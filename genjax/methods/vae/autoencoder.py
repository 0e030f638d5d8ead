"""The deterministic autoencoder, whose code serves as features.

Hinton & Salakhutdinov, Reducing the Dimensionality of Data with Neural Networks,
Science 313 (2006). Trained in one piece, without their pretraining.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from genjax.config import call, check_count
from genjax.losses.reconstruction import squared_error
from genjax.methods import _inputs
from genjax.methods.vae._latent import make_coders
from genjax.types import Batch, Method, ModelState, Params, Player


def make(config: ConfigDict) -> Method:
    """One player, "autoencoder"; config.model holds the arguments of `autoencoder`."""
    return call(autoencoder, config.model, config, where="config.model")


def autoencoder(
    config: ConfigDict, *, latent_features: int, network: Mapping[str, Any]
) -> Method:
    """Squared error, averaged over pixels in [-1, 1], through a narrow code.

    There is no distribution of codes, so that it draws nothing.

    Args:
        config: Resolved.
        latent_features: Dimensions of the code.
        network: As in `vae.vae`: name "mlp" or "conv" and its arguments.
    """
    check_count("config.model.latent_features", latent_features)
    encoder, decoder = make_coders(
        config,
        network,
        latent_shape=(latent_features,),
        out_shape=(*config.data.shape, 1),
    )

    def init(key: Array, batch: Batch) -> tuple[Params, ModelState]:
        encoder_key, decoder_key = jax.random.split(key)
        x = _inputs.floats(batch)
        z = jnp.zeros((len(x), latent_features))
        return {
            "encoder": encoder.init(encoder_key, x)["params"],
            "decoder": decoder.init(decoder_key, z)["params"],
        }, {}

    def encode(
        params: Params, model_state: ModelState, key: Array, batch: Batch
    ) -> Array:
        return encoder.apply({"params": params["encoder"]}, _inputs.floats(batch))

    def decode(
        params: Params,
        model_state: ModelState,
        latents: Array,
        cond: Mapping[str, Array],
    ) -> Array:
        return decoder.apply({"params": params["decoder"]}, latents)[..., 0]

    def loss(
        params: Params,
        model_state: ModelState,
        batch: Batch,
        key: Array,
        *,
        step: Array,
        train: bool,
    ) -> tuple[Array, tuple[ModelState, dict[str, Array]]]:
        code = encode(params, model_state, key, batch)
        x_hat = decode(params, model_state, code, {})
        mse = squared_error(x_hat, _inputs.floats(batch)).mean()
        return mse, ({}, {"reconstruction": mse})

    player = Player("autoencoder", ("encoder", "decoder"), loss)
    return Method(init=init, players=(player,), encode=encode, decode=decode)
