"""PixelCNN on dynamically binarised MNIST: arXiv:1601.06759.

The paper reports 81.30 nats (Table 4) on MNIST binarised once and for all, with
RMSProp; here each pixel is drawn with probability image / 255, anew at each step.

Data: python -m genjax.data.prepare mnist

Run: python train.py --config=configs/pixelcnn_mnist.py --workdir=runs/pixelcnn_mnist
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "autoregressive.pixelcnn"
    config.num_steps = 4500
    config.data.update(name="tfds:mnist", batch_size=32)
    config.model = dict(
        network=dict(features=16, num_blocks=7, out_features=32),
        output=dict(name="binary", binarize="dynamic"),
    )
    config.optimizers = dict(
        pixelcnn=dict(
            name="adam",
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=100,
            clip_norm=1.0,
        )
    )
    config.ema.update(networks=("pixelcnn",), decay=0.999)
    config.log_every, config.sample_every = 100, 2000
    config.eval_every, config.eval_examples = 1000, 2000
    config.checkpoint.every = 2000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.network.update(features=3, num_blocks=1, out_features=6)
        config.optimizers.pixelcnn.warmup_steps = 1
        config.eval_examples, config.num_samples = 16, 8
    return config
