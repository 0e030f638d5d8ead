"""Residual Flow, arXiv:1906.02735, on scikit-learn's 8x8 digits, in minutes on a CPU.

Run: python train.py --config=configs/residual_flow_digits.py --workdir=runs/res_digits
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "flow.residual_flow"
    config.num_steps = 2000
    config.data.update(name="digits", batch_size=64)
    config.model = dict(
        features=(32, 32),
        num_blocks=(0, 8),
        dense_features=(128,),
        num_dense_blocks=2,
    )
    config.optimizers = dict(
        flow=dict(
            name="adamw",
            learning_rate=5e-3,
            schedule="cosine",
            warmup_steps=100,
            weight_decay=1e-3,
            clip_norm=500.0,
        )
    )
    config.ema.update(networks=("flow",), decay=0.998)
    config.sample_every, config.eval_every = 500, 500
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.optimizers.flow.warmup_steps = 1
        config.model.update(features=(4, 4), num_blocks=(0, 1), num_dense_blocks=0)
        config.model.update(num_exact_eval=2)
        config.eval_examples, config.num_samples = 16, 8
    return config
