"""Glow on CIFAR-10: arXiv:1807.03039, Table 2, which reports 3.35 bits per dim.

3 levels of 32 steps with 512 features, affine couplings, Adam at 1e-3 (App. B). The
paper's 8-bit images are dequantised uniformly, as here.

Data: python -m genjax.data.prepare cifar10
Run: python train.py --config=configs/glow_cifar.py --workdir=runs/glow_cifar
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "flow.glow"
    config.num_steps = 1_500_000
    config.data.update(name="tfds:cifar10", batch_size=64, random_flip=True)
    config.model = dict(
        network=dict(name="conv", features=512), num_steps=32, num_levels=3
    )
    config.optimizers = dict(
        flow=dict(
            name="adam", learning_rate=1e-3, warmup_steps=10_000, clip_norm=1000.0
        )
    )
    config.ema.update(networks=("flow",), decay=0.999)
    config.sampler = dict(temperature=0.7)
    config.sample_every, config.eval_every = 10_000, 10_000
    config.eval_examples = 10_000
    config.checkpoint.every = 10_000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.optimizers.flow.warmup_steps = 1
        config.model.update(num_steps=2, num_levels=2)
        config.model.network.update(features=4)
        config.eval_examples, config.num_samples = 16, 8
    return config
