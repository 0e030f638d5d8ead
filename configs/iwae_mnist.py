"""IWAE on dynamically binarised MNIST: arXiv:1509.00519, with k = 5.

Network, batches and steps of configs/vae_mnist.py; a step takes two to three times as
long. The paper, with two layers of 200 units and 50 latents, reports 85.54 nats for
k = 5 and 86.76 for the VAE.

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/iwae_mnist.py --workdir=runs/iwae_mnist
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "vae.iwae"
    config.num_steps = 40_000
    config.data.update(name="tfds:mnist", batch_size=128)
    config.model = dict(
        latent_features=20,
        network=dict(name="mlp", features=(500, 500), activation="tanh"),
        num_importance_samples=5,
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
