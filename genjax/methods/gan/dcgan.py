"""Deep convolutional GANs.

Radford et al., arXiv:1511.06434.
"""

import functools
from dataclasses import replace

from ml_collections import ConfigDict

from genjax.config import ConfigError, call, check_count
from genjax.losses import adversarial
from genjax.methods.gan._game import make_game
from genjax.types import Method


def make(config: ConfigDict) -> Method:
    """Two players; config.model holds the arguments of `dcgan`.

    config.sampler holds the fields of `_game.Chain`.
    """
    return call(dcgan, config.model, config, where="config.model")


def dcgan(
    config: ConfigDict,
    *,
    features: int = 64,
    generator_features: int | None = None,
    levels: int | None = None,
    latent_features: int = 100,
    prior: str = "uniform",
    label_smoothing: float = 0.0,
    instance_noise: float = 0.0,
) -> Method:
    """The non-saturating game between the networks of the paper's guidelines.

    Args:
        config: Resolved; the data must be images.
        features: Of the generator's last and the discriminator's first hidden level.
        generator_features: Of the former, where that is not the same: the paper's
            Fig. 1 has 128.
        levels: Times that an image is halved; None while its sides are even and the
            halves at least 4.
        latent_features: Width of the latents.
        prior: Of the latents, "uniform" in [-1, 1] (the paper's) or "normal".
        label_smoothing: See `losses.adversarial.minimax_discriminator`, in [0, 1).
        instance_noise: Standard deviation of noise on all that the discriminator sees
            in training (arXiv:1610.04490): without it, real pixels that are exactly
            -1 or 1 give themselves away.
    """
    check_count("config.model.features", features)
    if generator_features is None:
        generator_features = features
    check_count("config.model.generator_features", generator_features)
    if not 0 <= label_smoothing < 1:
        raise ConfigError(
            f"config.model.label_smoothing must be in [0, 1), got {label_smoothing}"
        )
    if instance_noise < 0:
        raise ConfigError(
            f"config.model.instance_noise must be at least 0, got {instance_noise}"
        )
    loss_fn = functools.partial(
        adversarial.minimax_discriminator, smoothing=label_smoothing
    )
    game = make_game(
        config,
        generator=dict(
            name="dcgan",
            features=generator_features,
            levels=levels,
        ),
        discriminator=dict(name="dcgan", features=features, levels=levels),
        latent_features=latent_features,
        prior=prior,
    )
    game = replace(game, instance_noise=instance_noise)
    return game.method(
        config,
        game.discriminator_loss(loss_fn),
        game.generator_loss(adversarial.non_saturating_generator),
        says_log_ratio=True,
    )
