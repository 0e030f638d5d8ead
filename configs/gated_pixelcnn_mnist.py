"""Gated PixelCNN on dynamically binarised MNIST: arXiv:1606.05328.

The paper has no figure for MNIST. PixelCNNs reach 81.30 nats on MNIST binarised once
and for all (arXiv:1601.06759, Table 4); here each pixel is drawn with probability
image / 255, anew at each step.

Kernels are of 5 x 5, but the first of 7 x 7: of 3 x 3, eight layers see ten rows up,
and samples forget that a digit is complete. It takes about an hour on two cores.

Data: python -m genjax.data.prepare mnist

Run:
python train.py --config=configs/gated_pixelcnn_mnist.py --workdir=runs/gated_mnist
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "autoregressive.gated_pixelcnn"
    config.num_steps = 5000
    config.data.update(name="tfds:mnist", batch_size=32)
    config.model = dict(
        network=dict(features=32, num_layers=8, kernel_size=5, out_features=64),
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
    config.log_every, config.sample_every = 100, 1000
    config.eval_every, config.eval_examples = 1000, 2000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.network.update(features=6, num_layers=2, out_features=6)
        config.optimizers.pixelcnn.warmup_steps = 1
        config.eval_examples, config.num_samples = 16, 8
    return config
