"""NICE, arXiv:1410.8516, on two moons in the plane, in minutes on a CPU.

The truth's own mean log-density there is -2.391 nats.

Run: python train.py --config=configs/nice_moons.py --workdir=runs/nice_moons
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "flow.nice"
    config.num_steps = 4000
    config.data.update(name="synthetic:moons", batch_size=256)
    config.model = dict(network=dict(name="mlp", features=(128, 128)), num_couplings=12)
    config.optimizers = dict(
        flow=dict(name="adam", learning_rate=2e-3, schedule="cosine", clip_norm=10.0)
    )
    config.log_every, config.sample_every, config.eval_every = 200, 1000, 1000
    config.eval_examples, config.num_samples = 4000, 1000
    config.checkpoint.every = 2000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.update(num_couplings=2)
        config.model.network.features = (8,)
        config.eval_examples, config.num_samples = 16, 8
    return config
