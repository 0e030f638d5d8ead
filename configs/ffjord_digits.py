"""FFJORD, arXiv:1810.01367, on scikit-learn's 8x8 digits, in minutes on a CPU.

Run: python train.py --config=configs/ffjord_digits.py --workdir=runs/ffjord_digits
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "flow.ffjord"
    config.num_steps = 3000
    config.data.update(name="digits", batch_size=64)
    config.model = dict(
        network=dict(name="conv", features=64, activation="silu"),
        trace="hutchinson",
        kinetic_energy=0.01,
        tolerance=1e-4,
    )
    config.optimizers = dict(
        flow=dict(
            name="adamw",
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=100,
            weight_decay=1e-3,
            clip_norm=100.0,
        )
    )
    config.ema.update(networks=("flow",), decay=0.998)
    config.sample_every, config.eval_every = 1000, 500
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.optimizers.flow.warmup_steps = 1
        config.model.network.update(features=4)
        config.eval_examples, config.num_samples = 16, 8
    return config
