"""VAE with categorical latents (Gumbel-softmax, arXiv:1611.01144) on the 8x8 digits.

The temperature falls from 1 to 0.5 over the first 3,466 steps.

Run: python train.py --config=configs/categorical_vae_digits.py \\
    --workdir=runs/categorical_vae_digits
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "vae.categorical_vae"
    config.num_steps = 6000
    config.data.update(name="digits", batch_size=100)
    config.model = dict(
        num_latents=10,
        num_categories=10,
        network=dict(name="mlp", features=(200,), activation="tanh"),
        decoder="bernoulli",
        binarize="dynamic",
        temperature=1.0,
        min_temperature=0.5,
        anneal_rate=2e-4,
    )
    config.optimizers = dict(
        vae=dict(name="adam", learning_rate=1e-3, schedule="cosine")
    )
    config.sample_every, config.eval_every = 2000, 2000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.update(num_latents=3, num_categories=4)
        config.model.network.features = (16,)
        config.eval_examples, config.num_samples = 16, 8
    return config
