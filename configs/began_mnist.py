"""BEGAN, arXiv:1703.10717, on MNIST, with narrower networks than the paper's for faces.

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/began_mnist.py --workdir=runs/began_mnist
"""

from configs import began_digits
from genjax.config import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = began_digits.get_config(variant)
    config.data.name = "tfds:mnist"
    config.model.generator.num_scales = config.model.discriminator.num_scales = 3
    if variant != "tiny":
        config.num_steps, config.data.batch_size = 20_000, 32
        config.model.generator.features = config.model.discriminator.features = 32
        config.model.update(gamma=0.7, k_rate=0.01)
        config.model.latent_features = config.model.discriminator.hidden_features = 64
        for player in ("generator", "discriminator"):
            config.optimizers[player].learning_rate = 1e-4
    return config
