"""The original GAN, arXiv:1406.2661, on 25 Gaussians: -log D for the generator.

Run: python train.py --config=configs/non_saturating_grid.py \\
    --workdir=runs/non_saturating_grid
"""

from configs import vanilla_grid
from genjax.config import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = vanilla_grid.get_config(variant)
    config.model.generator_loss = "non_saturating"
    return config
