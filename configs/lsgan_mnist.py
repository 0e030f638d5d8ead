"""Least-squares GAN, arXiv:1611.04076, on MNIST, with DCGAN's networks.

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/lsgan_mnist.py --workdir=runs/lsgan_mnist
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "gan.lsgan"
    config.num_steps = 18_000
    config.data.update(name="tfds:mnist", batch_size=64)
    config.model = dict(
        generator=dict(name="dcgan", features=32),
        discriminator=dict(name="dcgan", features=32),
        latent_features=100,
    )
    adam = dict(name="adam", learning_rate=2e-4, b1=0.5, schedule="linear")
    config.optimizers = dict(discriminator=dict(adam), generator=dict(adam))
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.eval_examples, config.num_samples = 16, 8
    return config
