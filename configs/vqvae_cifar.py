"""VQ-VAE on CIFAR-10, narrowed for minutes on a CPU.

Data: python -m genjax.data.prepare cifar10
Run: python train.py --config=configs/vqvae_cifar.py --workdir=runs/vqvae_cifar

The network of arXiv:1711.00937, Sec. 4.1, with 64 hidden units; an image becomes 8 x 8
of 512 codes, 72 bytes of 3072. For the paper's width and length add
--config.model.network.features=256 --config.data.batch_size=128
--config.num_steps=250000 --config.optimizers.vqvae.learning_rate=2e-4
--config.optimizers.vqvae.schedule=constant. The paper's figure, 4.67 bits/dim, is a
bound with several codes a position and cannot be compared to this squared error.
"""

from configs import vqvae_digits
from genjax.config import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = vqvae_digits.get_config(variant)
    config.data.update(name="tfds:cifar10", random_flip=True)
    config.model.network.num_levels = 2
    if not variant:
        config.num_steps = 2000
        config.model.update(num_codes=512, latent_features=64)
    return config
