"""VAE on scikit-learn's 8x8 digits, dynamically binarised, in minutes on a CPU.

The network of arXiv:1312.6114, smaller.

Run: python train.py --config=configs/vae_digits.py --workdir=runs/vae_digits
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "vae.vae"
    config.num_steps = 6000
    config.data.update(name="digits", batch_size=100)
    config.model = dict(
        latent_features=10,
        network=dict(name="mlp", features=(200,), activation="tanh"),
        decoder="bernoulli",
        binarize="dynamic",
    )
    config.optimizers = dict(
        vae=dict(name="adam", learning_rate=1e-3, schedule="cosine")
    )
    config.sample_every, config.eval_every = 2000, 2000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.latent_features = 3
        config.model.network.features = (16,)
        config.eval_examples, config.num_samples = 16, 8
    return config
