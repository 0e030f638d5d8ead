"""PixelCNN on scikit-learn's 8x8 digits: arXiv:1601.06759.

A softmax over the 17 grey levels that these digits have; minutes on a CPU.

Run: python train.py --config=configs/pixelcnn_digits.py --workdir=runs/pixelcnn_digits
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "autoregressive.pixelcnn"
    config.num_steps = 2000
    config.data.update(name="digits", batch_size=64)
    config.model = dict(
        network=dict(features=16, num_blocks=4, out_features=64),
        output=dict(name="categorical", num_levels=17),
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
        config.model.network.update(features=3, num_blocks=1, out_features=6)
        config.optimizers.pixelcnn.warmup_steps = 1
        config.eval_examples, config.num_samples = 16, 8
    return config
