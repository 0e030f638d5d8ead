"""FFJORD on MNIST: arXiv:1810.01367, which reports 0.99 bits per dim.

For about 20 minutes on two cores, and so much smaller than the paper's flows: one solve
at half the size and two at a quarter, by networks of three convolutions, to a tolerance
of 1e-3 rather than 1e-5.

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/ffjord_mnist.py --workdir=runs/ffjord_mnist
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "flow.ffjord"
    config.num_steps = 1000
    config.data.update(name="tfds:mnist", batch_size=32)
    config.model = dict(
        network=dict(name="plain", features=(32, 32)),
        num_blocks=(0, 1, 1),
        trace="hutchinson",
        kinetic_energy=0.01,
        tolerance=1e-3,
        alpha=1e-5,
    )
    config.optimizers = dict(
        flow=dict(
            name="adam",
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=100,
            clip_norm=500.0,
        )
    )
    config.ema.update(networks=("flow",), decay=0.998)
    config.sample_every, config.eval_every = 500, 250
    config.eval_examples = 1000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.optimizers.flow.warmup_steps = 1
        config.model.network.update(features=(4,))
        config.eval_examples, config.num_samples = 16, 8
    return config
