"""VAE of two levels on the 8x8 digits, dynamically binarised.

Run: python train.py --config=configs/hierarchical_vae_digits.py \\
    --workdir=runs/hierarchical_vae_digits
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "vae.hierarchical_vae"
    config.num_steps = 6000
    config.data.update(name="digits", batch_size=100)
    config.model = dict(
        latent_features=(20, 10),
        network=dict(name="mlp", features=(200,), activation="tanh"),
        upper_network=dict(features=(100,), activation="tanh"),
        decoder="bernoulli",
        binarize="dynamic",
    )
    config.optimizers = dict(
        vae=dict(name="adam", learning_rate=1e-3, schedule="cosine")
    )
    config.sample_every, config.eval_every = 2000, 2000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.latent_features = (4, 3)
        config.model.network.features = (16,)
        config.model.upper_network.features = (8,)
        config.eval_examples, config.num_samples = 16, 8
    return config
