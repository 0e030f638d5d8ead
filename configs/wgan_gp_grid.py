"""WGAN with a gradient penalty, arXiv:1704.00028, on 25 Gaussians in the plane.

The weight of the penalty is 0.1, as in the authors' code for points in the plane; with
the paper's 10 modes are found far more slowly.

Run: python train.py --config=configs/wgan_gp_grid.py --workdir=runs/wgan_gp_grid
"""

from configs import vanilla_grid
from genjax.config import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = vanilla_grid.get_config(variant)
    config.method = "gan.wgan_gp"
    generator, critic = config.model.generator, config.model.discriminator
    config.model = dict(
        generator=generator, critic=critic, latent_features=config.model.latent_features
    )
    config.model.penalty_weight = 0.1
    adam = dict(name="adam", learning_rate=2e-3, b1=0.0, b2=0.9, schedule="linear")
    config.optimizers = dict(critic=dict(adam), generator=dict(adam))
    return config
