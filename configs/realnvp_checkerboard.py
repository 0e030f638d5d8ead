"""Real NVP, arXiv:1605.08803, on a checkerboard in the plane, in minutes on a CPU.

The truth's own mean log-density there is -log 32 = -3.466 nats.

Run: python train.py --config=configs/realnvp_checkerboard.py --workdir=runs/realnvp
"""

from configs import realnvp_moons
from genjax.config import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = realnvp_moons.get_config(variant)
    config.data.name = "synthetic:checkerboard"
    return config
