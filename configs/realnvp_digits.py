"""Real NVP, arXiv:1605.08803, on scikit-learn's 8x8 digits, in minutes on a CPU.

Run: python train.py --config=configs/realnvp_digits.py --workdir=runs/realnvp_digits
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "flow.realnvp"
    config.num_steps = 3000
    config.data.update(name="digits", batch_size=64)
    config.model = dict(
        network=dict(name="resnet", features=32, num_blocks=1),
        num_couplings=3,
        num_levels=2,
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
        config.model.update(num_couplings=1)
        config.model.network.update(features=4, num_blocks=0)
        config.eval_examples, config.num_samples = 16, 8
    return config
