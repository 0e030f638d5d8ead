"""PixelRNN of diagonal BiLSTMs on CIFAR-10: arXiv:1601.06759, Table 1 and Sec. 5.

The paper reports 3.00 bits per dimension (Table 5) with 12 layers and 128 units, 256
levels for each channel, batches of 16 and RMSProp. Widths are the next that divide
into a group for each of the three channels.

Data: python -m genjax.data.prepare cifar10
Run: python train.py --config=configs/pixelrnn_cifar.py --workdir=runs/pixelrnn_cifar
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "autoregressive.pixelrnn"
    config.num_steps = 400_000
    config.data.update(name="tfds:cifar10", batch_size=16)
    config.model = dict(
        output=dict(name="categorical", num_levels=256),
        network=dict(
            features=129, layer="diagonal_bilstm", num_layers=12, out_features=1023
        ),
    )
    config.optimizers = dict(
        pixelrnn=dict(name="rmsprop", learning_rate=1e-4, clip_norm=1.0)
    )
    config.sample_every, config.eval_every = 10_000, 10_000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.output.num_levels = 4
        config.model.network.update(features=3, num_layers=2, out_features=3)
        config.eval_examples, config.num_samples = 16, 8
    return config
