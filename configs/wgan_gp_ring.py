"""WGAN with a gradient penalty, arXiv:1704.00028, on a ring of 8 Gaussians.

Run: python train.py --config=configs/wgan_gp_ring.py --workdir=runs/wgan_gp_ring
"""

from configs import wgan_gp_grid
from genjax.config import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = wgan_gp_grid.get_config(variant)
    config.data.name = "synthetic:ring"
    return config
