"""Wasserstein GANs with clipped weights.

Arjovsky et al., arXiv:1701.07875.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from genjax.config import call
from genjax.losses import adversarial
from genjax.methods.gan._game import make_game
from genjax.types import Method


def make(config: ConfigDict) -> Method:
    """A critic and a generator; config.model holds the arguments of `wgan`."""
    return call(wgan, config.model, config, where="config.model")


def wgan(
    config: ConfigDict,
    *,
    generator: Mapping[str, Any],
    critic: Mapping[str, Any],
    latent_features: int,
    prior: str = "normal",
    critic_steps: int = 5,
) -> Method:
    """Algorithm 1. What keeps the critic Lipschitz is config.optimizers.critic.

    Its `clip_weights` (the paper's c = 0.01) holds each weight in [-c, c] after every
    update; without it the critic's values grow without bound.

    Args:
        config: Resolved.
        generator: name "mlp" or "dcgan", and the fields of that module.
        critic: The same for the critic.
        latent_features: Width of the latents.
        prior: Of the latents, "normal" or "uniform".
        critic_steps: Updates of the critic for one of the generator.
    """
    game = make_game(
        config,
        generator=generator,
        discriminator=critic,
        latent_features=latent_features,
        prior=prior,
        opponent="critic",
    )
    return game.method(
        config,
        game.discriminator_loss(adversarial.wasserstein_critic),
        game.generator_loss(adversarial.wasserstein_generator),
        discriminator_steps=critic_steps,
    )
