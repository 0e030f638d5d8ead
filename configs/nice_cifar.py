"""NICE on CIFAR-10: arXiv:1410.8516, Sec. 5.1.

Four additive couplings of four hidden layers with 2000 units. arXiv:1601.06759 counts
the paper's result as 4.48 bits per dimension (Table 5). There images are whitened and
the prior is logistic; here they are not, and it is Gaussian.

Data: python -m genjax.data.prepare cifar10
Run: python train.py --config=configs/nice_cifar.py --workdir=runs/nice_cifar
"""

from configs import nice_mnist
from genjax.config import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = nice_mnist.get_config(variant)
    config.data.name = "tfds:cifar10"
    if variant != "tiny":
        config.num_steps = 150_000
        config.model.network.features = (2000,) * 4
        config.sample_every, config.eval_every = 10_000, 10_000
    return config
