"""WGAN-GP, arXiv:1704.00028, on scikit-learn's 8x8 digits, with DCGAN's networks.

Run: python train.py --config=configs/wgan_gp_digits.py --workdir=runs/wgan_gp_digits
"""

from configs import wgan_gp_mnist
from genjax.config import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = wgan_gp_mnist.get_config(variant)
    config.data.name = "digits"
    if variant == "tiny":
        return config
    config.num_steps = 3000
    config.model.generator.features = config.model.critic.features = 16
    config.model.latent_features = 32
    return config
