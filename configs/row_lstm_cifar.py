"""PixelRNN of row LSTMs on CIFAR-10: arXiv:1601.06759, Table 1 and Sec. 5.

The paper reports 3.07 bits per dimension (Table 5), with the sizes of its diagonal
BiLSTM: see configs/pixelrnn_cifar.py.

Data: python -m genjax.data.prepare cifar10
Run: python train.py --config=configs/row_lstm_cifar.py --workdir=runs/row_lstm_cifar
"""

from configs import pixelrnn_cifar
from genjax.config import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = pixelrnn_cifar.get_config(variant)
    config.model.network.layer = "row_lstm"
    return config
