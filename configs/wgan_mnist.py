"""WGAN with clipped weights on MNIST: arXiv:1701.07875, Alg. 1, with DCGAN's networks.

The settings are the paper's: c = 0.01, five critic steps, RMSProp at 5e-5. Clipping
holds batch norm's scales too, as the authors' code does.

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/wgan_mnist.py --workdir=runs/wgan_mnist
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "gan.wgan"
    config.num_steps = 10_000
    config.data.update(name="tfds:mnist", batch_size=64)
    config.model = dict(
        generator=dict(name="dcgan", features=32),
        critic=dict(name="dcgan", features=32),
        latent_features=100,
        critic_steps=5,
    )
    rmsprop = dict(name="rmsprop", learning_rate=5e-5)
    config.optimizers = dict(
        critic=dict(rmsprop, clip_weights=0.01), generator=dict(rmsprop)
    )
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.eval_examples, config.num_samples = 16, 8
    return config
