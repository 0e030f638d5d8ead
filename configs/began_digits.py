"""BEGAN, arXiv:1703.10717, on scikit-learn's 8x8 digits, in minutes on a CPU.

Run: python train.py --config=configs/began_digits.py --workdir=runs/began_digits
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "gan.began"
    config.num_steps = 3000
    config.data.update(name="digits", batch_size=64)
    widths = dict(name="began", features=16, num_scales=2)
    config.model = dict(
        generator=dict(widths),
        discriminator=dict(widths, hidden_features=16),
        latent_features=16,
        gamma=0.9,
        k_rate=0.05,
    )
    adam = dict(name="adam", learning_rate=1e-3, b1=0.5, schedule="cosine")
    config.optimizers = dict(discriminator=dict(adam), generator=dict(adam))
    config.sample_every = 1000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.update(latent_features=8)
        config.model.generator.features = config.model.discriminator.features = 4
        config.eval_examples, config.num_samples = 16, 8
    return config
