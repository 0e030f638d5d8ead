"""Least-squares GANs.

Mao et al., arXiv:1611.04076.
"""

import functools
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from genjax.config import call
from genjax.losses import adversarial
from genjax.methods.gan._game import make_game
from genjax.types import Method


def make(config: ConfigDict) -> Method:
    """Two players; config.model holds the arguments of `lsgan`."""
    return call(lsgan, config.model, config, where="config.model")


def lsgan(
    config: ConfigDict,
    *,
    generator: Mapping[str, Any],
    discriminator: Mapping[str, Any],
    latent_features: int,
    prior: str = "normal",
    a: float = 0.0,
    b: float = 1.0,
    c: float = 1.0,
    discriminator_steps: int = 1,
) -> Method:
    """Squared errors from labels a, b and c in place of the cross-entropy.

    Args:
        config: Resolved.
        generator: name "mlp" or "dcgan", and the fields of that module.
        discriminator: The same for the discriminator.
        latent_features: Width of the latents.
        prior: Of the latents, "normal" or "uniform".
        a: The discriminator's label of generated examples.
        b: Its label of real ones.
        c: What the generator wants it to say. a = -1, b = 1, c = 0 minimises
            Pearson's chi-squared.
        discriminator_steps: Updates of the discriminator for one of the generator.
    """
    game = make_game(
        config,
        generator=generator,
        discriminator=discriminator,
        latent_features=latent_features,
        prior=prior,
    )
    of_discriminator = functools.partial(
        adversarial.least_squares_discriminator, a=a, b=b
    )
    of_generator = functools.partial(adversarial.least_squares_generator, c=c)
    return game.method(
        config,
        game.discriminator_loss(of_discriminator),
        game.generator_loss(of_generator),
        discriminator_steps=discriminator_steps,
    )
