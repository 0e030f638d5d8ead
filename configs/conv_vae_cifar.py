"""Convolutional VAE on CIFAR-10 with a discretised logistic decoder.

The decoder is that of arXiv:1606.04934, Sec. 5.2, one mean and one scale for each value
of a pixel; the network is small and has one level of latents, so that it reconstructs
blurred images and comes nowhere near the paper's 3.11 bits/dim.

Data: python -m genjax.data.prepare cifar10
Run: python train.py --config=configs/conv_vae_cifar.py --workdir=runs/conv_vae_cifar
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "vae.vae"
    config.num_steps = 10_000
    config.data.update(name="tfds:cifar10", batch_size=64, random_flip=True)
    config.model = dict(
        latent_features=128,
        network=dict(name="conv", features=32, hidden=256),
        decoder="discretized_logistic",
    )
    config.optimizers = dict(
        vae=dict(name="adam", learning_rate=5e-4, schedule="cosine", clip_norm=200.0)
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
