"""Deterministic convolutional autoencoder on MNIST.

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/autoencoder_mnist.py \\
    --workdir=runs/autoencoder_mnist
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "vae.autoencoder"
    config.num_steps = 5_000
    config.data.update(name="tfds:mnist", batch_size=128)
    config.model = dict(
        latent_features=20,
        network=dict(name="conv", features=32, hidden=256),
    )
    config.optimizers = dict(
        autoencoder=dict(name="adam", learning_rate=1e-3, schedule="cosine")
    )
    config.log_every, config.sample_every = 500, 10_000
    config.eval_every = 10_000
    config.eval_examples = 10_000
    config.checkpoint.every = 20_000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.latent_features = 3
        config.model.network.update(features=4, hidden=8)
        config.eval_examples, config.num_samples = 16, 8
    return config
