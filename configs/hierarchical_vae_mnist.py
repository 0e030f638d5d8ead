"""VAE of two levels on dynamically binarised MNIST: arXiv:1509.00519, Sec. 5.

Latents and upper network of the paper's model with two stochastic layers, which reaches
85.33 nats for k = 1. Between image and z_1 lie the two layers of 500 units of
configs/vae_mnist.py, where the paper has 200; batches and steps are those too.

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/hierarchical_vae_mnist.py \\
    --workdir=runs/hierarchical_vae_mnist
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "vae.hierarchical_vae"
    config.num_steps = 40_000
    config.data.update(name="tfds:mnist", batch_size=128)
    config.model = dict(
        latent_features=(100, 50),
        network=dict(name="mlp", features=(500, 500), activation="tanh"),
        upper_network=dict(features=(100, 100), activation="tanh"),
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
        config.model.latent_features = (4, 3)
        config.model.network.features = (16,)
        config.model.upper_network.features = (8,)
        config.eval_examples, config.num_samples = 16, 8
    return config
