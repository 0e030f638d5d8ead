"""MADE on scikit-learn's 8x8 digits, binarised, with eight random orders.

Run: python train.py --config=configs/made_digits.py --workdir=runs/made_digits
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "autoregressive.fvbn"
    config.num_steps = 6000
    config.data.update(name="digits", batch_size=100)
    config.model = dict(
        output=dict(name="binary", binarize="dynamic"),
        features=(500,),
        order="random",
        num_masks=8,
    )
    config.optimizers = dict(
        fvbn=dict(
            name="adamw", learning_rate=1e-3, schedule="cosine", weight_decay=0.01
        )
    )
    config.sample_every, config.eval_every = 2000, 500
    config.checkpoint.update(every=500, best_metric="test/fvbn/loss")
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.update(features=(16,), num_masks=2)
        config.eval_examples, config.num_samples = 16, 8
    return config
