"""Real NVP on CIFAR-10: arXiv:1605.08803, Sec. 4.1, which reports 3.49 bits per dim.

Three levels, 8 residual blocks of 64 features, batch norm, Adam at 1e-3 and a penalty
on the weights of 5e-5 (here as AdamW's decay), as in the paper. Its residual networks
double their features at each level and are normalised; here they do neither.

Data: python -m genjax.data.prepare cifar10
Run: python train.py --config=configs/realnvp_cifar.py --workdir=runs/realnvp_cifar
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "flow.realnvp"
    config.num_steps = 500_000
    config.data.update(name="tfds:cifar10", batch_size=64, random_flip=True)
    config.model = dict(
        network=dict(name="resnet", features=64, num_blocks=8),
        num_couplings=3,
        num_levels=3,
        norm="batch",
        alpha=0.05,
    )
    config.optimizers = dict(
        flow=dict(
            name="adamw",
            learning_rate=1e-3,
            warmup_steps=500,
            weight_decay=5e-5,
            clip_norm=1000.0,
        )
    )
    config.ema.update(networks=("flow",), decay=0.999)
    config.sample_every, config.eval_every = 10_000, 10_000
    config.eval_examples = 10_000
    config.checkpoint.every = 10_000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.optimizers.flow.warmup_steps = 1
        config.model.update(num_couplings=1, num_levels=2)
        config.model.network.update(features=4, num_blocks=0)
        config.eval_examples, config.num_samples = 16, 8
    return config
