"""Class-conditional Gated PixelCNN on scikit-learn's 8x8 digits: arXiv:1606.05328.

A softmax over the 17 grey levels that these digits have; minutes on a CPU.

Run:
python train.py --config=configs/gated_pixelcnn_digits.py --workdir=runs/gated_digits
python sample.py --workdir=runs/gated_digits --num=100 --label=3
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "autoregressive.gated_pixelcnn"
    config.num_steps = 2000
    config.data.update(name="digits", batch_size=64)
    config.model = dict(
        network=dict(features=32, num_layers=4, out_features=64),
        output=dict(name="categorical", num_levels=17),
        conditional=True,
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
    config.ema.update(networks=("pixelcnn",), decay=0.99)
    config.sample_every, config.eval_every = 1000, 500
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.network.update(features=6, num_layers=2, out_features=6)
        config.optimizers.pixelcnn.warmup_steps = 1
        config.eval_examples, config.num_samples = 16, 8
    return config
