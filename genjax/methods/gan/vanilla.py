"""Generative adversarial networks, the original game.

Goodfellow et al., arXiv:1406.2661.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from genjax.config import call, choose
from genjax.losses import adversarial
from genjax.methods.gan._game import make_game
from genjax.types import Method

GENERATOR_LOSSES = {
    "minimax": adversarial.minimax_generator,
    "non_saturating": adversarial.non_saturating_generator,
}


def make(config: ConfigDict) -> Method:
    """Two players; config.model holds the arguments of `vanilla`.

    config.sampler holds the fields of `_game.Chain`.
    """
    return call(vanilla, config.model, config, where="config.model")


def vanilla(
    config: ConfigDict,
    *,
    generator: Mapping[str, Any],
    discriminator: Mapping[str, Any],
    latent_features: int,
    prior: str = "normal",
    generator_loss: str = "non_saturating",
    discriminator_steps: int = 1,
) -> Method:
    """The minimax game of Eq. 1, by Algorithm 1.

    The paper's networks are perceptrons; its maxout units and dropout in the
    discriminator are left out, and images end in a tanh, not a sigmoid, as the data
    are in [-1, 1].

    Args:
        config: Resolved.
        generator: name "mlp" or "dcgan", and the fields of that module.
        discriminator: The same for the discriminator.
        latent_features: Width of the latents.
        prior: Of the latents, "normal" or "uniform" (the paper's) in [-1, 1].
        generator_loss: "minimax", the game itself, or "non_saturating", which Sec. 3
            advises early in learning.
        discriminator_steps: k of Algorithm 1.
    """
    game = make_game(
        config,
        generator=generator,
        discriminator=discriminator,
        latent_features=latent_features,
        prior=prior,
    )
    loss_fn = choose(GENERATOR_LOSSES, generator_loss, "config.model.generator_loss")
    return game.method(
        config,
        game.discriminator_loss(adversarial.minimax_discriminator),
        game.generator_loss(loss_fn),
        discriminator_steps=discriminator_steps,
        says_log_ratio=True,
    )
