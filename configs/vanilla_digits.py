"""The original GAN of perceptrons, arXiv:1406.2661, on scikit-learn's 8x8 digits.

Run: python train.py --config=configs/vanilla_digits.py --workdir=runs/vanilla_digits
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "gan.vanilla"
    config.num_steps = 10_000
    config.data.update(name="digits", batch_size=64)
    config.model = dict(
        generator=dict(name="mlp", features=(256, 256)),
        discriminator=dict(name="mlp", features=(256, 256)),
        latent_features=32,
    )
    adam = dict(name="adam", learning_rate=2e-4, b1=0.5)
    config.optimizers = dict(discriminator=dict(adam), generator=dict(adam))
    config.sample_every = 2500
    config.checkpoint.every = 5000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.generator.features = (16, 16)
        config.model.discriminator.features = (16, 16)
        config.eval_examples, config.num_samples = 16, 8
    return config
