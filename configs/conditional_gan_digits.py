"""Conditional GAN, arXiv:1411.1784, on scikit-learn's 8x8 digits, in a minute on a CPU.

The label enters both networks. The discriminator is a perceptron, as in the paper; the
generator is DCGAN's (arXiv:1511.06434).

Run: python train.py --config=configs/conditional_gan_digits.py \\
    --workdir=runs/conditional_gan_digits
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "gan.conditional_gan"
    config.num_steps = 3000
    config.data.update(name="digits", batch_size=64)
    config.model = dict(
        generator=dict(name="dcgan", features=64),
        discriminator=dict(name="mlp", features=(256, 256)),
        latent_features=64,
    )
    adam = dict(name="adam", learning_rate=5e-4, b1=0.5)
    config.optimizers = dict(discriminator=dict(adam), generator=dict(adam))
    config.ema.update(networks=("generator",), decay=0.999)
    config.sample_every = 1000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.generator.features = 32
        config.model.discriminator.features = (8,)
        config.eval_examples, config.num_samples = 16, 8
    return config
