"""Conditional VAE on dynamically binarised MNIST: encoder and decoder see the class.

Network of configs/vae_mnist.py.

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/conditional_vae_mnist.py \\
    --workdir=runs/conditional_vae_mnist
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "vae.conditional_vae"
    config.num_steps = 30_000
    config.data.update(name="tfds:mnist", batch_size=128)
    config.model = dict(
        latent_features=20,
        network=dict(name="mlp", features=(500, 500), activation="tanh"),
        decoder="bernoulli",
        binarize="dynamic",
    )
    config.optimizers = dict(
        vae=dict(name="adam", learning_rate=1e-3, schedule="cosine")
    )
    config.log_every, config.sample_every = 500, 10_000
    config.eval_every = 10_000
    config.eval_examples = 10_000
    config.checkpoint.every = 20_000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.latent_features = 3
        config.model.network.features = (16,)
        config.eval_examples, config.num_samples = 16, 8
    return config
