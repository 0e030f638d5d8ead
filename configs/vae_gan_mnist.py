"""VAE/GAN on MNIST.

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/vae_gan_mnist.py --workdir=runs/vae_gan_mnist

After arXiv:1512.09300, which has faces; nothing there to compare with.
"""

from configs import vae_gan_digits
from genjax.config import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = vae_gan_digits.get_config(variant)
    config.data.name = "tfds:mnist"
    if not variant:
        config.num_steps = 10_000
        config.model.encoder.features = config.model.decoder.features = 32
        config.model.discriminator.features = 16
        config.model.latent_features = 32
    return config
