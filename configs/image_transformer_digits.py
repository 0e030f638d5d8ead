"""An image transformer on scikit-learn's 8x8 digits: arXiv:1802.05751, 1904.10509.

A softmax over the 17 grey levels that these digits have, and attention to all pixels
before; minutes on a CPU. The papers have no such small data.

Run:
python train.py --config=configs/image_transformer_digits.py \\
    --workdir=runs/image_transformer_digits
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "autoregressive.image_transformer"
    config.num_steps = 2000
    config.data.update(name="digits", batch_size=64)
    config.model = dict(
        output=dict(name="categorical", num_levels=17),
        network=dict(
            features=64,
            num_blocks=3,
            num_heads=4,
            mlp_features=128,
            dropout=0.1,
            pattern=dict(name="full"),
        ),
    )
    config.optimizers = dict(
        transformer=dict(
            name="adam",
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=100,
            clip_norm=1.0,
        )
    )
    config.ema.update(networks=("transformer",), decay=0.99)
    config.sample_every, config.eval_every = 1000, 500
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.network.update(
            features=8, num_blocks=2, num_heads=2, mlp_features=16
        )
        config.optimizers.transformer.warmup_steps = 1
        config.eval_examples, config.num_samples = 16, 8
    return config
