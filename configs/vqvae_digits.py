"""VQ-VAE on scikit-learn's 8x8 digits, in minutes on a CPU.

Run: python train.py --config=configs/vqvae_digits.py --workdir=runs/vqvae_digits

After arXiv:1711.00937, Sec. 4.1, but smaller: a digit becomes 4 x 4 of 64 codes, 12
bytes. The paper has no such small data.
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "vae.vqvae"
    config.num_steps = 2000
    config.data.update(name="digits", batch_size=64)
    config.model = dict(
        network=dict(features=64, num_levels=1, num_res_blocks=2),
        num_codes=64,
        latent_features=16,
        codebook="ema",
        commitment=0.25,
        decay=0.99,
        restart=0.03,
    )
    config.optimizers = dict(
        vqvae=dict(name="adam", learning_rate=1e-3, schedule="cosine")
    )
    config.eval_every = 500
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.network.update(features=8, num_res_blocks=1)
        config.model.update(num_codes=8, latent_features=4)
        config.eval_examples = 16
        config.num_samples = 8
    return config
