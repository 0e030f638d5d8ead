"""VAE on the 8x8 digits with mixtures of Gaussians as prior and as posterior.

The bound takes one draw from each component of the posterior (arXiv:2003.01687), and
the prior's components are learned; else as configs/vae_digits.py.

Run: python train.py --config=configs/mixture_vae_digits.py \\
    --workdir=runs/mixture_vae_digits
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
        num_prior_components=10,
        num_posterior_components=3,
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
        config.model.update(num_prior_components=2, num_posterior_components=2)
        config.eval_examples, config.num_samples = 16, 8
    return config
