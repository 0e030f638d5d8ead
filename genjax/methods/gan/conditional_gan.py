"""Conditional generative adversarial nets.

Mirza & Osindero, arXiv:1411.1784.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from genjax.config import call
from genjax.losses import adversarial
from genjax.methods._inputs import classes
from genjax.methods.gan._game import make_game
from genjax.types import Method


class WithLabel(nn.Module):
    """A network that sees the class beside its input.

    Attributes:
        network: (x [B, ..., C + K], train=) -> output.
        num_classes: K.
    """

    network: nn.Module
    num_classes: int

    @nn.compact
    def __call__(self, x: Array, label: Array, *, train: bool) -> Array:
        """Applies the network to x [B, ..., C] and the one-hot label of each example.

        The K further channels have the same value at every pixel.
        """
        one_hot = jax.nn.one_hot(label, self.num_classes, dtype=x.dtype)
        one_hot = one_hot.reshape(len(x), *[1] * (x.ndim - 2), self.num_classes)
        one_hot = jnp.broadcast_to(one_hot, (*x.shape[:-1], self.num_classes))
        return self.network(jnp.concatenate([x, one_hot], axis=-1), train=train)


def make(config: ConfigDict) -> Method:
    """Two players; config.model holds the arguments of `conditional_gan`.

    config.sampler holds the fields of `_game.Chain`.
    """
    return call(conditional_gan, config.model, config, where="config.model")


def conditional_gan(
    config: ConfigDict,
    *,
    generator: Mapping[str, Any],
    discriminator: Mapping[str, Any],
    latent_features: int = 100,
    prior: str = "uniform",
    discriminator_steps: int = 1,
) -> Method:
    """The non-saturating game, with the label an input of both networks (Eq. 2).

    Args:
        config: Resolved; the data must have labels.
        generator: name, a key of `_game.GENERATORS`, and the fields of that module.
        discriminator: The same for the discriminator.
        latent_features: Width of the latents, the label not counted.
        prior: Of the latents, "uniform" in [-1, 1] (the paper's) or "normal".
        discriminator_steps: Updates of the discriminator for one of the generator.
    """
    num_classes = classes(config)
    game = make_game(
        config,
        generator=generator,
        discriminator=discriminator,
        latent_features=latent_features,
        prior=prior,
    )
    game = replace(
        game,
        generator=WithLabel(game.generator, num_classes),
        discriminator=WithLabel(game.discriminator, num_classes),
        cond=("label",),
    ).checked()
    return game.method(
        config,
        game.discriminator_loss(adversarial.minimax_discriminator),
        game.generator_loss(adversarial.non_saturating_generator),
        discriminator_steps=discriminator_steps,
        says_log_ratio=True,
    )
