"""A class-conditional energy network, arXiv:1903.08689, on MNIST, made for CPUs.

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/igebm_mnist.py --workdir=runs/igebm_mnist
"""

from configs import igebm_digits
from genjax.config import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = igebm_digits.get_config(variant)
    config.data.name = "tfds:mnist"
    config.model.network = dict(
        name="strided", features=(16, 32, 64), dense_features=128
    )
    if variant == "tiny":
        config.model.network.update(features=(4,), dense_features=4)
        return config
    config.num_steps = 4000
    config.sample_every = 1000
    return config
