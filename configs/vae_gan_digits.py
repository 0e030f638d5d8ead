"""VAE/GAN on scikit-learn's 8x8 digits, in minutes on a CPU.

Run: python train.py --config=configs/vae_gan_digits.py --workdir=runs/vae_gan_digits

After arXiv:1512.09300, which has faces; nothing there to compare with.
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "vae.vae_gan"
    config.num_steps = 2000
    config.data.update(name="digits", batch_size=64)
    config.model = dict(
        encoder=dict(features=64, hidden=256),
        decoder=dict(features=64),
        discriminator=dict(features=16, hidden=128),
        latent_features=16,
        gamma=0.1,
        feature_variance=10.0,
    )
    adam = dict(name="adam", learning_rate=5e-4, b1=0.5, schedule="linear")
    # At the others' rate the discriminator soon wins, and samples are no digits.
    slow = dict(adam, learning_rate=5e-5)
    config.optimizers = dict(encoder=dict(adam), decoder=dict(adam), discriminator=slow)
    config.eval_every = 500
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.encoder.update(features=8, hidden=16)
        config.model.decoder.features = 8
        config.model.discriminator.update(features=4, hidden=8)
        config.model.latent_features = 4
        config.eval_examples = 16
        config.num_samples = 8
    return config
