"""Boundary equilibrium GANs, whose discriminator is an autoencoder.

Berthelot et al., arXiv:1703.10717.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from genjax.config import ConfigError, call, check_count, choose
from genjax.losses import adversarial
from genjax.methods._inputs import floats, image_shape
from genjax.methods.gan._game import PRIORS, Game, make_network
from genjax.networks.began import Autoencoder, Decoder
from genjax.types import Batch, LossFn, Method, ModelState, Params


def make(config: ConfigDict) -> Method:
    """Two players; config.model holds the arguments of `began`."""
    return call(began, config.model, config, where="config.model")


def began(
    config: ConfigDict,
    *,
    generator: Mapping[str, Any],
    discriminator: Mapping[str, Any],
    latent_features: int = 64,
    prior: str = "uniform",
    gamma: float = 0.5,
    k_rate: float = 0.001,
) -> Method:
    """Matches the errors of an autoencoder on generated images to those on real ones.

    model_state["k"] weighs the generated images' error; the metric "convergence" of the
    discriminator is the paper's global measure. The paper controls k by the generator's
    own batch; here it is that of the discriminator, of the same distribution.

    Args:
        config: Resolved; the data must be images.
        generator: name "began", and the fields of `networks.began.Decoder`.
        discriminator: name "began", and the fields of `networks.began.Autoencoder`.
        latent_features: Width of the latents.
        prior: Of the latents, "uniform" in [-1, 1] (the paper's) or "normal".
        gamma: Diversity ratio E[L(G(z))] / E[L(x)] that is held, in [0, 1].
        k_rate: Gain lambda_k of the control.
    """
    shape = image_shape(config)
    choose(PRIORS, prior, "config.model.prior")
    check_count("config.model.latent_features", latent_features)
    for name, value in [("gamma", gamma), ("k_rate", k_rate)]:
        if not 0 <= value <= 1:
            raise ConfigError(f"config.model.{name} must be in [0, 1], got {value}")
    game = Game(
        make_network({"began": Decoder}, config, generator, "generator", shape=shape),
        make_network(
            {"began": Autoencoder}, config, discriminator, "discriminator", shape=shape
        ),
        shape,
        latent_features,
        prior,
    ).checked()

    def init(key: Array, batch: Batch) -> tuple[Params, ModelState]:
        params, model_state = game.init(key, batch)
        return params, {**model_state, "k": jnp.zeros(())}

    method = game.method(
        config, discriminator_loss(game, gamma, k_rate), generator_loss(game)
    )
    return replace(method, init=init)


def reconstruction_errors(
    game: Game, params: Params, model_state: ModelState, x: Array, *, train: bool
) -> Array:
    """L(x): the mean absolute error of the pixels, float [B]."""
    found, _ = game.judge(params, model_state, x, train=train)
    return jnp.mean(jnp.abs(found - x), axis=(1, 2, 3))


def discriminator_loss(game: Game, gamma: float, k_rate: float) -> LossFn:
    """Reconstructs real images, and generated ones with weight -k; moves k."""

    def loss(params, model_state, batch, key, *, step, train):
        real, k = floats(batch), model_state["k"]
        z = game.latents(key, len(real))
        fake, _ = game.generate(params, model_state, z, train=train)
        on_real, on_fake = (
            reconstruction_errors(game, params, model_state, x, train=train)
            for x in (real, fake)
        )
        real_error, fake_error = jax.lax.stop_gradient((on_real.mean(), on_fake.mean()))
        next_k, convergence = adversarial.began_balance(
            k, real_error, fake_error, gamma=gamma, rate=k_rate
        )
        metrics = {"real": real_error, "fake": fake_error}
        metrics.update(k=k, convergence=convergence)
        loss = adversarial.began_discriminator(on_real, on_fake, k).mean()
        return loss, ({"k": next_k} if train else {}, metrics)

    return loss


def generator_loss(game: Game) -> LossFn:
    """The autoencoder's error on generated images."""

    def loss(params, model_state, batch, key, *, step, train):
        z = game.latents(key, len(batch["image"]))
        fake, _ = game.generate(params, model_state, z, train=train)
        errors = reconstruction_errors(game, params, model_state, fake, train=train)
        return adversarial.began_generator(errors).mean(), ({}, {})

    return loss
