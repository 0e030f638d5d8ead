"""Real NVP, arXiv:1605.08803, on MNIST, for about 20 minutes on two cores.

The original reports no MNIST; in bits per dimension with uniform dequantisation, the
papers that compare quote 1.06 for it (arXiv:1810.01367, Table 2).

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/realnvp_mnist.py --workdir=runs/realnvp_mnist
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "flow.realnvp"
    config.num_steps = 3000
    config.data.update(name="tfds:mnist", batch_size=64)
    config.model = dict(
        network=dict(name="resnet", features=32, num_blocks=2),
        num_couplings=3,
        num_levels=2,
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
    config.sample_every, config.eval_every = 1000, 1000
    config.eval_examples = 1000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.optimizers.flow.warmup_steps = 1
        config.model.update(num_couplings=1)
        config.model.network.update(features=4, num_blocks=0)
        config.eval_examples, config.num_samples = 16, 8
    return config
