"""A noise-conditional score network, arXiv:1907.05600, on MNIST, with a small U-Net.

Noise levels and steps follow arXiv:2006.09011, as in ncsn_digits.

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/ncsn_mnist.py --workdir=runs/ncsn_mnist
"""

from configs import ncsn_digits
from genjax.config import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = ncsn_digits.get_config(variant)
    config.data.name = "tfds:mnist"
    if variant == "tiny":
        return config
    config.num_steps = 5000
    config.data.batch_size = 32
    config.model.network.update(
        features=16, multipliers=(1, 2, 4), attention_resolutions=(7,)
    )
    config.model.update(sigma_max=30.0, num_levels=60)
    config.sample_every = 2000
    config.checkpoint.every = 2000
    return config
