"""A noise-conditional score network, arXiv:1907.05600, on 25 Gaussians in the plane.

Run: python train.py --config=configs/ncsn_grid.py --workdir=runs/ncsn_grid
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "energy.ncsn"
    config.num_steps = 20_000
    config.data.update(name="synthetic:grid", batch_size=512)
    config.model = dict(
        network=dict(features=(128, 128, 128), activation="silu"),
        sigma_max=8.0,
        sigma_min=0.02,
        num_levels=30,
    )
    config.optimizers = dict(
        score=dict(name="adam", learning_rate=2e-3, schedule="cosine")
    )
    config.ema.update(networks=("score",), decay=0.999)
    config.sampler = dict(num_steps=20, step_size=0.1)
    config.log_every, config.sample_every, config.num_samples = 500, 5000, 2500
    config.eval_every, config.eval_samples = 5000, 10_000  # Modes and good samples.
    config.checkpoint.every = 5000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.network.features = (16, 16)
        config.model.update(num_levels=3, sigma_max=1.0)
        config.sampler.num_steps = 2
        config.eval_examples, config.eval_samples, config.num_samples = 16, 16, 8
    return config
