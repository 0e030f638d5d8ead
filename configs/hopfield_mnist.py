"""A modern Hopfield network of 10,000 digits of MNIST: arXiv:2008.02217.

The classical one, of 1982, holds about 0.138 x 784 = 108 patterns if these are random.
Digits are alike: by Hebb's rule 200 collapse to one state, and by the pseudo-inverse
rule they are fixed points, but random states lead elsewhere:
--config.data.batch_size=200 --config.model.kind=classical
--config.model.rule=pseudo_inverse

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/hopfield_mnist.py --workdir=runs/hopfield_mnist
"""

from configs import hopfield_digits
from genjax.config import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" stores eight digits that mix."""
    config = hopfield_digits.get_config(variant)
    config.data.name = "tfds:mnist"
    if variant == "tiny":
        return config
    config.data.batch_size = 10_000
    config.model.beta = 1.0
    return config
