"""Residual Flow, arXiv:1906.02735, on a checkerboard in the plane, in minutes on a CPU.

The exact log-determinant. The truth's own mean log-density there is -log 32 = -3.466
nats.

Run: python train.py --config=configs/residual_flow_checkerboard.py --workdir=runs/res
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "flow.residual_flow"
    config.num_steps = 4000
    config.data.update(name="synthetic:checkerboard", batch_size=256)
    config.model = dict(features=(32, 32), num_blocks=(16,), log_det="exact")
    config.optimizers = dict(
        flow=dict(name="adam", learning_rate=1e-2, schedule="cosine", clip_norm=10.0)
    )
    config.log_every, config.sample_every, config.eval_every = 100, 1000, 1000
    config.eval_examples, config.num_samples = 4000, 1000
    config.checkpoint.every = 1000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.update(features=(8,), num_blocks=(2,))
        config.eval_examples, config.num_samples = 16, 8
    return config
