"""Residual Flow on MNIST: arXiv:1906.02735, which reports 0.970 bits per dim.

For about 20 minutes on two cores, and so much smaller than the paper's network: no
blocks at the full size, 32 channels rather than 512, and 6 blocks at each of two levels
rather than 16 at each of three.

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/residual_flow_mnist.py --workdir=runs/res_mnist
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "flow.residual_flow"
    config.num_steps = 2000
    config.data.update(name="tfds:mnist", batch_size=64)
    config.model = dict(
        features=(32, 32),
        num_blocks=(0, 6, 6),
        dense_features=(128,),
        num_dense_blocks=2,
        alpha=1e-5,
    )
    config.optimizers = dict(
        flow=dict(
            name="adam",
            learning_rate=3e-3,
            schedule="cosine",
            warmup_steps=100,
            clip_norm=500.0,
        )
    )
    config.ema.update(networks=("flow",), decay=0.998)
    config.sample_every, config.eval_every = 500, 500
    config.eval_examples = 1000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.optimizers.flow.warmup_steps = 1
        config.model.update(features=(4, 4), num_blocks=(0, 1, 0), num_dense_blocks=1)
        config.model.update(dense_features=(8,), num_exact_eval=2)
        config.eval_examples, config.num_samples = 16, 8
    return config
