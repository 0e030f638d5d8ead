"""NICE on MNIST: arXiv:1410.8516, Sec. 5.1.

Four additive couplings of five hidden layers with 1000 units. The paper reports a test
log-density of 1980.50 nats of the dequantised images in [0, 1], with a logistic prior:
(784 log 256 - 1980.50) / (784 log 2) = 4.36 bits per dimension. Here the prior is
Gaussian.

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/nice_mnist.py --workdir=runs/nice_mnist
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "flow.nice"
    config.num_steps = 5000
    config.data.update(name="tfds:mnist", batch_size=128)
    config.model = dict(network=dict(name="mlp", features=(1000,) * 5), num_couplings=4)
    config.optimizers = dict(
        flow=dict(
            name="adam",
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=100,
            clip_norm=1000.0,
        )
    )
    config.ema.update(networks=("flow",), decay=0.998)
    config.sample_every, config.eval_every = 1000, 1000
    config.eval_examples = 10_000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.optimizers.flow.warmup_steps = 1
        config.model.update(num_couplings=2)
        config.model.network.features = (8,)
        config.eval_examples, config.num_samples = 16, 8
    return config
