"""A class-conditional energy network, arXiv:1903.08689, on MNIST, made for CPUs.

The weight of the squared energies is small. Chains' ends are pushed up to an energy of
1 / (2 weight) and no further: with 0.1, at an energy of 5, chains of ones stayed in a
pattern of dots.

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
    config.model.update(
        num_steps=30, noise=0.1, buffer_size=10_000, magnitude_weight=0.01
    )
    config.optimizers.energy.update(learning_rate=5e-4, clip_norm=1.0)
    config.sampler.num_steps = 600
    config.sample_every = 2000
    return config
