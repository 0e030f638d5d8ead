"""PixelCNN++ on MNIST with all its 256 grey levels: arXiv:1701.05517.

The paper has no figure for MNIST. In bits per dimension it stands beside flows, such as
Glow's 1.05 (as reported in arXiv:1810.01367, Table 2).

Data: python -m genjax.data.prepare mnist

Run:
python train.py --config=configs/pixelcnn_pp_mnist.py --workdir=runs/pixelcnn_pp_mnist
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "autoregressive.pixelcnn_pp"
    config.num_steps = 6000
    config.data.update(name="tfds:mnist", batch_size=16)
    config.model = dict(
        network=dict(features=24, num_blocks=1, num_levels=3),
        output=dict(name="logistic_mixture", num_mixtures=5, num_levels=256),
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
    config.ema.update(networks=("pixelcnn",), decay=0.999)
    config.log_every, config.sample_every = 100, 1500
    config.eval_every, config.eval_examples = 1500, 2000
    config.checkpoint.every = 1500
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.network.update(features=4, num_levels=2)
        config.model.output.num_mixtures = 2
        config.optimizers.pixelcnn.warmup_steps = 1
        config.eval_examples, config.num_samples = 16, 8
    return config
