"""DCGAN, arXiv:1511.06434, on scikit-learn's 8x8 digits, in a minute on a CPU.

Run: python train.py --config=configs/dcgan_digits.py --workdir=runs/dcgan_digits
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "gan.dcgan"
    config.num_steps = 4000
    config.data.update(name="digits", batch_size=64)
    config.model = dict(features=64, latent_features=100)
    adam = dict(name="adam", learning_rate=2e-4, b1=0.5)
    config.optimizers = dict(discriminator=dict(adam), generator=dict(adam))
    config.sample_every = 1000
    # The best samples are kept beside the last: sample.py --step=best.
    config.eval_every, config.eval_samples = 500, 1000
    config.checkpoint.best_metric = "samples/frechet"
    if variant == "tiny":
        config.eval_samples = 8
        config.num_steps, config.data.batch_size = 2, 8
        config.model.features = 32
        config.eval_examples, config.num_samples = 16, 8
    return config
