"""VQ-VAE on MNIST, in minutes on a CPU.

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/vqvae_mnist.py --workdir=runs/vqvae_mnist

After arXiv:1711.00937, Sec. 4.1, but narrower (64 hidden units for 256) and with fewer
codes: a digit becomes 7 x 7 of 128 codes, 43 bytes. The paper does not use MNIST.
"""

from configs import vqvae_digits
from genjax.config import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = vqvae_digits.get_config(variant)
    config.data.name = "tfds:mnist"
    config.model.network.num_levels = 2
    if not variant:
        config.num_steps = 2500
        config.model.num_codes = 128
    return config
