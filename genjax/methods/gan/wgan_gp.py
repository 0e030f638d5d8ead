"""Wasserstein GANs with a gradient penalty.

Gulrajani et al., arXiv:1704.00028.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from genjax.config import ConfigError, call
from genjax.losses import adversarial, penalties
from genjax.methods.gan._game import make_game
from genjax.types import Method


def make(config: ConfigDict) -> Method:
    """A critic and a generator; config.model holds the arguments of `wgan_gp`."""
    return call(wgan_gp, config.model, config, where="config.model")


def wgan_gp(
    config: ConfigDict,
    *,
    generator: Mapping[str, Any],
    critic: Mapping[str, Any],
    latent_features: int,
    prior: str = "normal",
    critic_steps: int = 5,
    penalty_weight: float = 10.0,
) -> Method:
    """Algorithm 1, on images or points.

    Args:
        config: Resolved.
        generator: name, a key of `_game.GENERATORS`, and the fields of that module.
        critic: The same for the critic, without batch norm: the penalty is on the
            gradient at each example by itself (Sec. 4).
        latent_features: Width of the latents.
        prior: Of the latents, "normal" or "uniform".
        critic_steps: Updates of the critic for one of the generator.
        penalty_weight: Lambda; the paper finds 10 good from toy data to ImageNet.
    """
    game = make_game(
        config,
        generator=generator,
        discriminator=critic,
        latent_features=latent_features,
        prior=prior,
        opponent="critic",
    )
    if getattr(game.discriminator, "norm", None) == "batch":
        raise ConfigError(
            "config.model.critic.norm must be 'layer' or 'none', got 'batch': the "
            "gradient penalty needs values of each example alone"
        )

    def penalty_fn(values_fn, real, fake, key):
        return penalty_weight * penalties.gradient_penalty(values_fn, real, fake, key)

    return game.method(
        config,
        game.discriminator_loss(adversarial.wasserstein_critic, penalty_fn),
        game.generator_loss(adversarial.wasserstein_generator),
        discriminator_steps=critic_steps,
    )
