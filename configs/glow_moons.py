"""Glow on two moons, points of the plane: sixteen steps of perceptrons.

Else as configs/realnvp_moons.py. The truth's own mean log-density there is -2.391 nats.

Run: python train.py --config=configs/glow_moons.py --workdir=runs/glow_moons
"""

from configs import realnvp_moons
from genjax.config import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = realnvp_moons.get_config(variant)
    config.method = "flow.glow"
    num_steps = 2 if variant == "tiny" else 16
    network = config.model.network.to_dict()
    config.model = dict(network=network, num_steps=num_steps, scale="tanh")
    return config
