"""PixelCNN on CIFAR-10: arXiv:1601.06759, Table 1.

The paper reports 3.14 bits per dimension (Table 5) with 128 units in 15 residual
blocks, R before G before B, batches of 16 and RMSProp. Widths are the next that divide
into a group for each of the three channels.

Data: python -m genjax.data.prepare cifar10

Run: python train.py --config=configs/pixelcnn_cifar.py --workdir=runs/pixelcnn_cifar
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "autoregressive.pixelcnn"
    config.num_steps = 400_000
    config.data.update(name="tfds:cifar10", batch_size=16)
    config.model = dict(
        network=dict(features=129, num_blocks=15, out_features=1023),
        output=dict(name="categorical", num_levels=256),
    )
    config.optimizers = dict(
        pixelcnn=dict(name="rmsprop", learning_rate=1e-4, clip_norm=1.0)
    )
    config.sample_every, config.eval_every, config.num_samples = 20_000, 10_000, 16
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.network.update(features=3, num_blocks=1, out_features=6)
        config.model.output.num_levels = 4
        config.eval_examples, config.num_samples = 16, 8
    return config
