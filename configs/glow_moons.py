"""Glow on two moons, points of the plane: sixteen steps of perceptrons.

The truth's own mean log-density there is -2.391 nats.

Run: python train.py --config=configs/glow_moons.py --workdir=runs/glow_moons
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "flow.glow"
    config.num_steps = 6000
    config.data.update(name="synthetic:moons", batch_size=256)
    config.model = dict(
        network=dict(name="mlp", features=(64, 64)), num_steps=16, scale="tanh"
    )
    config.optimizers = dict(
        flow=dict(name="adam", learning_rate=2e-3, schedule="cosine", clip_norm=10.0)
    )
    config.log_every, config.sample_every, config.eval_every = 200, 2000, 2000
    config.eval_examples, config.num_samples = 4000, 1000
    config.checkpoint.every = 3000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.update(num_steps=2)
        config.model.network.features = (8,)
        config.eval_examples, config.num_samples = 16, 8
    return config
