"""FFJORD on CIFAR-10: arXiv:1810.01367, which reports 3.40 bits per dim.

Two solves before and two after each of three halvings, and two at last, by networks of
three hidden layers of 64 channels; Adam at 1e-3 after 1000 steps of warm-up, in batches
of 200: the settings of the authors' training script but for actnorm at each level. For
GPUs.

Data: python -m genjax.data.prepare cifar10
Run: python train.py --config=configs/ffjord_cifar.py --workdir=runs/ffjord_cifar
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "flow.ffjord"
    config.num_steps = 50_000
    config.data.update(name="tfds:cifar10", batch_size=200, random_flip=True)
    config.model = dict(
        network=dict(name="plain", features=(64, 64, 64)),
        num_blocks=(2, 2, 2, 2),
        trace="hutchinson",
        tolerance=1e-5,
        alpha=0.05,
    )
    config.optimizers = dict(
        flow=dict(name="adam", learning_rate=1e-3, warmup_steps=1000)
    )
    config.ema.update(networks=("flow",), decay=0.999)
    config.sample_every, config.eval_every = 5000, 5000
    config.eval_examples = 1000
    config.checkpoint.every = 5000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.optimizers.flow.warmup_steps = 1
        config.model.update(num_blocks=(0, 1))
        config.model.network.update(features=(4,))
        config.eval_examples, config.num_samples = 16, 8
    return config
