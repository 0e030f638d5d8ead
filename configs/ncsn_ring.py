"""A noise-conditional score network, arXiv:1907.05600, on a ring of 8 Gaussians.

Run: python train.py --config=configs/ncsn_ring.py --workdir=runs/ncsn_ring
"""

from configs import ncsn_grid
from genjax.config import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = ncsn_grid.get_config(variant)
    config.data.name = "synthetic:ring"
    if variant != "tiny":
        config.model.update(sigma_max=5.0, sigma_min=0.01)
    return config
