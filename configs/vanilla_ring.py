"""The original GAN, arXiv:1406.2661, on a ring of 8 Gaussians: -log D, one step each.

Run: python train.py --config=configs/vanilla_ring.py --workdir=runs/vanilla_ring
"""

from configs import non_saturating_grid
from genjax.config import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = non_saturating_grid.get_config(variant)
    config.data.name = "synthetic:ring"
    return config
