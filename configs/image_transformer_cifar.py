"""A sparse transformer on CIFAR-10: arXiv:1904.10509, which reports 2.80 bits/dim.

Strided attention over the 3072 bytes of an image, 128 layers of width 256 with two
heads, queries, keys and hidden layers of half the usual width, dropout 0.25 (Sec. 7.1);
Adam with 5000 steps of warm-up, weight decay 0.01 and gradients clipped to norm 1 (Sec.
6). The stride is a row of pixels, 96 bytes; that and batches of 16 are our choice, so
the steps are 120 epochs. The backward pass computes each block again. For GPUs.

Data: python -m genjax.data.prepare cifar10

Run:
python train.py --config=configs/image_transformer_cifar.py \\
    --workdir=runs/image_transformer_cifar
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "autoregressive.image_transformer"
    config.num_steps = 375_000
    config.data.update(name="tfds:cifar10", batch_size=16)
    config.model = dict(
        output=dict(name="categorical", num_levels=256),
        network=dict(
            features=256,
            num_blocks=128,
            num_heads=2,
            qk_features=128,
            mlp_features=512,
            dropout=0.25,
            pattern=dict(name="strided", stride=96),
        ),
    )
    config.remat = True
    config.optimizers = dict(
        transformer=dict(
            name="adamw",
            learning_rate=3.5e-4,
            schedule="cosine",
            warmup_steps=5000,
            weight_decay=0.01,
            clip_norm=1.0,
        )
    )
    config.sample_every, config.eval_every, config.num_samples = 25_000, 5000, 16
    config.checkpoint.update(every=5000, best_metric="test/transformer/loss")
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.output.num_levels = 4
        config.model.network.update(
            features=8, num_blocks=2, qk_features=4, mlp_features=8
        )
        config.optimizers.transformer.warmup_steps = 1
        config.eval_examples, config.num_samples = 16, 8
    return config
