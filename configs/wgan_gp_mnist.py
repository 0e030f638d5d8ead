"""WGAN with a gradient penalty on MNIST, arXiv:1704.00028, with DCGAN's networks.

The settings are the paper's: lambda = 10, five critic steps, Adam(1e-4, 0, 0.9), layer
norm instead of batch norm in the critic.

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/wgan_gp_mnist.py --workdir=runs/wgan_gp_mnist
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "gan.wgan_gp"
    config.num_steps = 10_000
    config.data.update(name="tfds:mnist", batch_size=64)
    config.model = dict(
        generator=dict(name="dcgan", features=32),
        critic=dict(name="dcgan", features=32, norm="layer"),
        latent_features=100,
        critic_steps=5,
        penalty_weight=10.0,
    )
    adam = dict(name="adam", learning_rate=1e-4, b1=0.0, b2=0.9)
    config.optimizers = dict(critic=dict(adam), generator=dict(adam))
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.eval_examples, config.num_samples = 16, 8
    return config
