"""VAE with two latent dimensions on MNIST, for pictures of its manifold.

arXiv:1312.6114, Fig. 4b, with the network of configs/vae_mnist.py.

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/vae_manifold_mnist.py \\
    --workdir=runs/vae_manifold_mnist
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "vae.vae"
    config.num_steps = 30_000
    config.data.update(name="tfds:mnist", batch_size=128)
    config.model = dict(
        latent_features=2,
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
        config.model.network.features = (16,)
        config.eval_examples, config.num_samples = 16, 8
    return config
