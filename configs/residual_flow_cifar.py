"""Residual Flow on CIFAR-10: arXiv:1906.02735, which reports 3.280 bits per dim.

Three levels of 16 blocks of 3 x 3, 1 x 1 and 3 x 3 convolutions with 512 channels, then
four blocks of dense layers of 128; Adam at 1e-3 for 1000 epochs of batches of 64, the
gradient of the bits per dim clipped at 1, which is 2129 for nats: the settings of the
authors' code.

Data: python -m genjax.data.prepare cifar10
Run: python train.py --config=configs/residual_flow_cifar.py --workdir=runs/res_cifar
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "flow.residual_flow"
    config.num_steps = 781_000
    config.data.update(name="tfds:cifar10", batch_size=64, random_flip=True)
    config.model = dict(
        features=(512, 512),
        kernel_sizes=(3, 1, 3),
        num_blocks=(16, 16, 16),
        dense_features=(128, 128),
        num_dense_blocks=4,
        coeff=0.98,
        alpha=0.05,
    )
    config.optimizers = dict(
        flow=dict(
            name="adam",
            learning_rate=1e-3,
            b2=0.99,
            warmup_steps=1000,
            clip_norm=2129.0,
        )
    )
    config.ema.update(networks=("flow",), decay=0.999)
    config.sample_every, config.eval_every = 10_000, 10_000
    config.eval_examples = 10_000
    config.checkpoint.every = 10_000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.optimizers.flow.warmup_steps = 1
        config.model.update(features=(4, 4), num_blocks=(1, 1), num_dense_blocks=1)
        config.model.update(dense_features=(8,), num_exact_eval=2)
        config.eval_examples, config.num_samples = 16, 8
    return config
