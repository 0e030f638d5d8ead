"""NICE, arXiv:1410.8516, on scikit-learn's 8x8 digits, in minutes on a CPU.

Run: python train.py --config=configs/nice_digits.py --workdir=runs/nice_digits
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "flow.nice"
    config.num_steps = 3000
    config.data.update(name="digits", batch_size=64)
    config.model = dict(network=dict(name="mlp", features=(256, 256)), num_couplings=4)
    config.optimizers = dict(
        flow=dict(
            name="adamw",
            learning_rate=1e-3,
            schedule="cosine",
            weight_decay=1e-2,
            clip_norm=1000.0,
        )
    )
    config.ema.update(networks=("flow",), decay=0.998)
    config.sample_every, config.eval_every = 1000, 500
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.update(num_couplings=2)
        config.model.network.features = (8,)
        config.eval_examples, config.num_samples = 16, 8
    return config
