"""Gated PixelCNN on CIFAR-10: arXiv:1606.05328, which reports 3.03 bits per dimension.

Softmax outputs over 256 levels, R before G before B. The paper does not say how wide
and deep its network for CIFAR-10 is; the numbers here are our choice.

Data: python -m genjax.data.prepare cifar10

Run:
python train.py --config=configs/gated_pixelcnn_cifar.py --workdir=runs/gated_cifar
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "autoregressive.gated_pixelcnn"
    config.num_steps = 200_000
    config.data.update(name="tfds:cifar10", batch_size=128)
    config.model = dict(
        network=dict(features=129, num_layers=15, kernel_size=5, out_features=1023),
        output=dict(name="categorical", num_levels=256),
    )
    config.optimizers = dict(
        pixelcnn=dict(
            name="adam",
            learning_rate=3e-4,
            schedule="cosine",
            warmup_steps=1000,
            clip_norm=1.0,
        )
    )
    config.ema.update(networks=("pixelcnn",), decay=0.9995)
    config.sample_every, config.eval_every, config.num_samples = 20_000, 10_000, 16
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.network.update(features=6, num_layers=2, out_features=6)
        config.optimizers.pixelcnn.warmup_steps = 1
        config.model.output.num_levels = 4
        config.eval_examples, config.num_samples = 16, 8
    return config
