"""PixelCNN++ on scikit-learn's 8x8 digits, given their class: arXiv:1701.05517.

A mixture of logistics cut into the 17 grey levels that these digits have; minutes on a
CPU.

Run:
python train.py --config=configs/pixelcnn_pp_digits.py --workdir=runs/pixelcnn_pp_digits
python sample.py --workdir=runs/pixelcnn_pp_digits --num=100 --label=3
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "autoregressive.pixelcnn_pp"
    config.num_steps = 1500
    config.data.update(name="digits", batch_size=64)
    config.model = dict(
        network=dict(features=24, num_blocks=1, num_levels=2, dropout=0.2),
        output=dict(name="logistic_mixture", num_mixtures=5, num_levels=17),
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
    config.sample_every, config.eval_every = 750, 500
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.network.update(features=4)
        config.model.output.num_mixtures = 2
        config.optimizers.pixelcnn.warmup_steps = 1
        config.eval_examples, config.num_samples = 16, 8
    return config
