"""WGAN with clipped weights, arXiv:1701.07875, on 25 Gaussians in the plane.

The clip is c = 0.1: at the paper's 0.01 the generator has learnt next to nothing after
3,000 steps.

Run: python train.py --config=configs/wgan_grid.py --workdir=runs/wgan_grid
"""

from configs import vanilla_grid
from genjax.config import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = vanilla_grid.get_config(variant)
    config.method = "gan.wgan"
    generator, critic = config.model.generator, config.model.discriminator
    config.model = dict(
        generator=generator, critic=critic, latent_features=config.model.latent_features
    )
    rmsprop = dict(name="rmsprop", learning_rate=1e-3, schedule="linear")
    config.optimizers = dict(
        critic=dict(rmsprop, clip_weights=0.1), generator=dict(rmsprop)
    )
    return config
