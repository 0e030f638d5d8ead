"""GANs with spectral normalisation.

Miyato et al., Spectral Normalization for Generative Adversarial Networks,
arXiv:1802.05957. With labels, Miyato & Koyama, cGANs with Projection Discriminator,
arXiv:1802.05637.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from genjax.config import call, check_count, choose
from genjax.losses import adversarial
from genjax.methods._inputs import classes, image_shape
from genjax.methods.gan._game import (
    DISCRIMINATORS,
    GENERATORS,
    PRIORS,
    Game,
    make_network,
)
from genjax.types import Method

LOSSES = {  # Of the discriminator and of the generator.
    "hinge": (adversarial.hinge_discriminator, adversarial.hinge_generator),
    "non_saturating": (
        adversarial.minimax_discriminator,
        adversarial.non_saturating_generator,
    ),
}


def make(config: ConfigDict) -> Method:
    """Two players; config.model holds the arguments of `sngan`.

    config.sampler holds the fields of `_game.Chain`.
    """
    return call(sngan, config.model, config, where="config.model")


def sngan(
    config: ConfigDict,
    *,
    generator: Mapping[str, Any],
    discriminator: Mapping[str, Any],
    latent_features: int = 128,
    prior: str = "normal",
    loss: str = "hinge",
    discriminator_steps: int = 5,
    conditional: bool = False,
) -> Method:
    """A game whose discriminator has every weight divided by its spectral norm.

    Args:
        config: Resolved; the data must be images.
        generator: name, "resnet" or "dcgan", and the fields of that module.
        discriminator: The same for the discriminator; its norm is "spectral".
        latent_features: Width of the latents.
        prior: Of the latents, "normal" or "uniform".
        loss: "hinge" or "non_saturating".
        discriminator_steps: Updates of the discriminator for one of the generator.
        conditional: Whether the generator has a batch norm for each class, and the
            discriminator a projection of the label; both must be "resnet" then.
    """
    shape = image_shape(config)
    of_discriminator, of_generator = choose(LOSSES, loss, "config.model.loss")
    choose(PRIORS, prior, "config.model.prior")
    check_count("config.model.latent_features", latent_features)
    of_label = dict(num_classes=classes(config)) if conditional else {}
    game = Game(
        make_network(
            GENERATORS, config, generator, "generator", shape=shape, **of_label
        ),
        make_network(
            DISCRIMINATORS,
            config,
            discriminator,
            "discriminator",
            norm="spectral",
            **of_label,
        ),
        shape,
        latent_features,
        prior,
        cond=("label",) if conditional else (),
    ).checked()
    return game.method(
        config,
        game.discriminator_loss(of_discriminator),
        game.generator_loss(of_generator),
        discriminator_steps=discriminator_steps,
        says_log_ratio=loss == "non_saturating",
    )
