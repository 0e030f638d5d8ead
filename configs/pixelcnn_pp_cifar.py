"""PixelCNN++ on CIFAR-10: arXiv:1701.05517, which reports 2.92 bits per dimension.

Three resolutions of five blocks, 192 features and dropout of a half are the paper's
(Sec. 3.1). Ten components, batches of 96, Adam's numbers and the average of the weights
are those of the authors' code; it has no warm-up and lets the learning rate fall by
5e-6 of itself each step.

Data: python -m genjax.data.prepare cifar10

Run:
python train.py --config=configs/pixelcnn_pp_cifar.py --workdir=runs/pixelcnn_pp_cifar
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "autoregressive.pixelcnn_pp"
    config.num_steps = 400_000
    config.data.update(name="tfds:cifar10", batch_size=96)
    config.model = dict(
        network=dict(features=192, num_blocks=5, num_levels=3, dropout=0.5),
        output=dict(name="logistic_mixture", num_mixtures=10, num_levels=256),
    )
    config.optimizers = dict(
        pixelcnn=dict(
            name="adam",
            learning_rate=1e-3,
            schedule="linear",
            end_value=1e-4,
            warmup_steps=1000,
            b1=0.95,
            b2=0.9995,
            clip_norm=1.0,
        )
    )
    config.ema.update(networks=("pixelcnn",), decay=0.9995)
    config.sample_every, config.eval_every, config.num_samples = 20_000, 10_000, 16
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.network.update(features=4, num_blocks=1, num_levels=2)
        config.model.output.num_mixtures = 2
        config.optimizers.pixelcnn.warmup_steps = 1
        config.eval_examples, config.num_samples = 16, 8
    return config
