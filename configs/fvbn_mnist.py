"""A belief net of logistic regressions on dynamically binarised MNIST.

784 regressions, each of one pixel on those before it in raster order. On MNIST
binarised once and for all, arXiv:1502.03509 (Table 6) lists such nets at 96 to 97
nats; here each pixel is drawn with probability image / 255, anew at each step.

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/fvbn_mnist.py --workdir=runs/fvbn_mnist
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "autoregressive.fvbn"
    config.num_steps = 40_000
    config.data.update(name="tfds:mnist", batch_size=128)
    config.model = dict(output=dict(name="binary", binarize="dynamic"))
    config.optimizers = dict(
        fvbn=dict(name="adam", learning_rate=2e-3, schedule="cosine")
    )
    config.log_every, config.sample_every = 500, 10_000
    config.eval_every, config.eval_examples = 5000, 10_000
    config.checkpoint.every = 10_000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.eval_examples, config.num_samples = 16, 8
    return config
