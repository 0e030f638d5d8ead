"""A belief net of logistic regressions on scikit-learn's 8x8 digits, binarised.

Run: python train.py --config=configs/fvbn_digits.py --workdir=runs/fvbn_digits
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "autoregressive.fvbn"
    config.num_steps = 6000
    config.data.update(name="digits", batch_size=100)
    config.model = dict(output=dict(name="binary", binarize="dynamic"))
    config.optimizers = dict(
        fvbn=dict(name="adamw", learning_rate=3e-3, schedule="cosine")
    )
    config.sample_every, config.eval_every = 2000, 1000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.eval_examples, config.num_samples = 16, 8
    return config
