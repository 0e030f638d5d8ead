"""PixelRNN of row LSTMs on dynamically binarised MNIST: arXiv:1601.06759.

The paper reports 80.54 nats on MNIST binarised once and for all (Table 4), without the
sizes; here they are those of its diagonal BiLSTM, seven layers of 16 units, and each
pixel is drawn with probability image / 255, anew at each step. The steps are what two
cores take in 20 minutes.

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/row_lstm_mnist.py --workdir=runs/row_lstm_mnist
"""

from configs import pixelrnn_mnist
from genjax.config import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = pixelrnn_mnist.get_config(variant)
    config.model.network.layer = "row_lstm"
    return config
