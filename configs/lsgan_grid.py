"""Least-squares GAN, arXiv:1611.04076, on 25 Gaussians in the plane.

Run: python train.py --config=configs/lsgan_grid.py --workdir=runs/lsgan_grid
"""

from configs import vanilla_grid
from genjax.config import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = vanilla_grid.get_config(variant)
    config.method = "gan.lsgan"
    del config.model.generator_loss
    return config
