"""Auxiliary classifier GANs.

Odena et al., Conditional Image Synthesis with Auxiliary Classifier GANs,
arXiv:1610.09585.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from genjax.config import ConfigError, call, check_count, choose
from genjax.losses import adversarial
from genjax.methods._inputs import classes, floats
from genjax.methods.gan._game import (
    DISCRIMINATORS,
    GENERATORS,
    PRIORS,
    Game,
    make_network,
)
from genjax.methods.gan.conditional_gan import WithLabel
from genjax.types import LossFn, Method


class Split(nn.Module):
    """A discriminator that says whether an image is real, and what it shows.

    Attributes:
        network: (x [B, ...], train=) -> [B, 1 + K].
    """

    network: nn.Module

    @nn.compact
    def __call__(self, x: Array, label: Array, *, train: bool) -> tuple[Array, Array]:
        """Maps x to logits of being real [B] and of the classes [B, K].

        The label is not looked at; a `Game` gives it to both networks.
        """
        said = self.network(x, train=train)
        return said[:, 0], said[:, 1:]


def make(config: ConfigDict) -> Method:
    """Two players; config.model holds the arguments of `ac_gan`."""
    return call(ac_gan, config.model, config, where="config.model")


def ac_gan(
    config: ConfigDict,
    *,
    generator: Mapping[str, Any],
    discriminator: Mapping[str, Any],
    latent_features: int = 100,
    prior: str = "normal",
    class_weight: float = 1.0,
    discriminator_steps: int = 1,
) -> Method:
    """The non-saturating game, where both players also want the class to be read.

    Args:
        config: Resolved; the data must have labels.
        generator: name, a key of `_game.GENERATORS`, and the fields of that module,
            which sees the one-hot label beside the latents.
        discriminator: The same for the discriminator, which sees the image alone and
            says 1 + K numbers: a logit of being real and K of the class.
        latent_features: Width of the latents, the label not counted.
        prior: Of the latents, "normal" or "uniform".
        class_weight: Of the cross-entropy of the class in both losses; 1 in the paper.
        discriminator_steps: Updates of the discriminator for one of the generator.
    """
    shape, num_classes = tuple(config.data.shape), classes(config)
    choose(PRIORS, prior, "config.model.prior")
    check_count("config.model.latent_features", latent_features)
    if not class_weight > 0:
        raise ConfigError(
            f"config.model.class_weight must be above 0, got {class_weight}"
        )
    network = make_network(GENERATORS, config, generator, "generator", shape=shape)
    game = Game(
        WithLabel(network, num_classes),
        Split(
            make_network(
                DISCRIMINATORS,
                config,
                discriminator,
                "discriminator",
                num_outputs=1 + num_classes,
            )
        ),
        shape,
        latent_features,
        prior,
        cond=("label",),
    ).checked()
    return game.method(
        config,
        discriminator_loss(game, class_weight),
        generator_loss(game, class_weight),
        discriminator_steps=discriminator_steps,
    )


def class_nll(logits: Array, label: Array) -> tuple[Array, Array]:
    """-log P(label | x) in nats [B] for logits [B, K], and the share that is right."""
    log_p = jax.nn.log_softmax(logits)
    nll = -jnp.take_along_axis(log_p, label[:, None], axis=1)[:, 0]
    return nll, jnp.mean(logits.argmax(axis=1) == label)


def discriminator_loss(game: Game, class_weight: float) -> LossFn:
    """Minus L_S + L_C, with the class read in real and in generated examples."""

    def loss(params, model_state, batch, key, *, step, train):
        real, label = floats(batch), batch["label"]
        z = game.latents(key, len(real))
        fake, _ = game.generate(params, model_state, z, label, train=train)
        (on_real, of_real), changed = game.judge(
            params, model_state, real, label, train=train
        )
        model_state = {**model_state, **changed}
        (on_fake, of_fake), changed = game.judge(
            params, model_state, fake, label, train=train
        )
        nll_real, accuracy = class_nll(of_real, label)
        nll_fake, accuracy_fake = class_nll(of_fake, label)
        total = adversarial.minimax_discriminator(on_real, on_fake)
        total += class_weight * (nll_real + nll_fake)
        metrics = {"real": on_real.mean(), "fake": on_fake.mean()}
        metrics.update(accuracy=accuracy, accuracy_fake=accuracy_fake)
        return total.mean(), (changed, metrics)

    return loss


def generator_loss(game: Game, class_weight: float) -> LossFn:
    """L_S - L_C to be taken for real and for the class, in the non-saturating form."""

    def loss(params, model_state, batch, key, *, step, train):
        label = batch["label"]
        z = game.latents(key, len(label))
        fake, changed = game.generate(params, model_state, z, label, train=train)
        (on_fake, of_fake), _ = game.judge(
            params, model_state, fake, label, train=train
        )
        nll, accuracy = class_nll(of_fake, label)
        total = adversarial.non_saturating_generator(on_fake) + class_weight * nll
        metrics = {"fake": on_fake.mean(), "accuracy": accuracy}
        return total.mean(), (changed, metrics)

    return loss
