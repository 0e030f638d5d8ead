"""AC-GAN, arXiv:1610.09585, on MNIST.

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/ac_gan_mnist.py --workdir=runs/ac_gan_mnist
"""

from configs import ac_gan_digits
from genjax.config import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = ac_gan_digits.get_config(variant)
    config.data.name, config.num_steps = "tfds:mnist", 10_000
    config.model.discriminator = dict(name="dcgan", features=64)
    config.model.latent_features = 100
    for player in config.optimizers.values():
        player.learning_rate = 2e-4
    config.sample_every = 1000
    if variant == "tiny":
        config.num_steps = 2
        config.model.discriminator.features = 8
    return config
