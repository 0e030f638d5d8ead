"""PixelRNN of diagonal BiLSTMs on scikit-learn's 8x8 digits, binarised.

Run: python train.py --config=configs/pixelrnn_digits.py --workdir=runs/pixelrnn_digits
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "autoregressive.pixelrnn"
    config.num_steps = 3000
    config.data.update(name="digits", batch_size=64)
    config.model = dict(
        output=dict(name="binary", binarize="dynamic"),
        network=dict(
            features=16, layer="diagonal_bilstm", num_layers=3, out_features=32
        ),
    )
    config.optimizers = dict(
        pixelrnn=dict(name="adam", learning_rate=2e-3, schedule="cosine", clip_norm=1.0)
    )
    config.sample_every, config.eval_every = 1000, 1000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.network.update(features=4, num_layers=2, out_features=4)
        config.eval_examples, config.num_samples = 16, 8
    return config
