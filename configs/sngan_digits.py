"""SNGAN, arXiv:1802.05957, on scikit-learn's 8x8 digits, in minutes on a CPU.

Run: python train.py --config=configs/sngan_digits.py --workdir=runs/sngan_digits
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "gan.sngan"
    config.num_steps = 2000
    config.data.update(name="digits", batch_size=64)
    config.model = dict(
        generator=dict(name="resnet", features=(32,)),
        discriminator=dict(name="resnet", features=(32, 32), num_down=2, pool="sum"),
        latent_features=64,
        discriminator_steps=1,
    )
    adam = dict(name="adam", learning_rate=1e-3, b1=0.0, b2=0.9)
    config.optimizers = dict(discriminator=dict(adam), generator=dict(adam))
    config.ema.update(networks=("generator",), decay=0.999)
    config.sample_every = 500
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.update(latent_features=8, discriminator_steps=1)
        config.model.generator.features = (8,)
        config.model.discriminator.update(features=(8,), num_down=1)
        config.eval_examples, config.num_samples = 16, 8
    return config
