"""PixelRNN of diagonal BiLSTMs on dynamically binarised MNIST: arXiv:1601.06759.

Seven layers of 16 units, of which the paper reports 79.20 nats on MNIST binarised once
and for all (Table 4), with RMSProp; here each pixel is drawn with probability
image / 255, anew at each step, and Adam takes RMSProp's place. The steps are what two
cores take in 20 minutes, a small part of what it needs.

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/pixelrnn_mnist.py --workdir=runs/pixelrnn_mnist
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "autoregressive.pixelrnn"
    config.num_steps = 2400
    config.data.update(name="tfds:mnist", batch_size=16)
    config.model = dict(
        output=dict(name="binary", binarize="dynamic"),
        network=dict(
            features=16, layer="diagonal_bilstm", num_layers=7, out_features=32
        ),
    )
    config.optimizers = dict(
        pixelrnn=dict(
            name="adam",
            learning_rate=2e-3,
            schedule="cosine",
            warmup_steps=100,
            clip_norm=1.0,
        )
    )
    config.sample_every, config.eval_every, config.eval_examples = 1200, 600, 512
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.network.update(features=4, num_layers=2, out_features=4)
        config.optimizers.pixelrnn.warmup_steps = 1
        config.eval_examples, config.num_samples = 16, 8
    return config
