"""An image transformer on dynamically binarised MNIST: arXiv:1802.05751, 1904.10509.

Strided attention: each pixel attends to the 28 before it and to the column above. The
papers have no figure for MNIST; PixelRNNs reach 79.20 nats on MNIST binarised once and
for all (arXiv:1601.06759, Table 4). Here each pixel is drawn with probability
image / 255, anew at each step. The steps are what two cores take in 20 minutes.

Data: python -m genjax.data.prepare mnist

Run:
python train.py --config=configs/image_transformer_mnist.py \\
    --workdir=runs/image_transformer_mnist
"""

from configs import image_transformer_digits
from genjax.config import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = image_transformer_digits.get_config(variant)
    config.data.name = "tfds:mnist"
    config.model.output = dict(name="binary", binarize="dynamic")
    config.model.network.pattern = dict(name="strided")
    config.model.network.dropout = 0.0
    if variant == "tiny":
        return config
    config.model.network.num_heads = 2
    config.num_steps, config.data.batch_size = 5000, 16
    config.optimizers.transformer.learning_rate = 2e-3
    config.ema.decay = 0.999
    config.sample_every, config.eval_every, config.eval_examples = 2500, 2500, 2048
    config.checkpoint.every = 2500
    return config
