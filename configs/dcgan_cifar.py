"""DCGAN on CIFAR-10: the settings of arXiv:1511.06434, Sec. 4.

Three levels, 32 -> 4, take the place of the paper's four, for 64 x 64 images; each has
the features that the paper's level of the same size has. The paper gives no FID for
CIFAR-10 (it learns on ImageNet there, for its features).

Data: python -m genjax.data.prepare cifar10
Run: python train.py --config=configs/dcgan_cifar.py --workdir=runs/dcgan_cifar
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "gan.dcgan"
    config.num_steps = 50_000
    config.data.update(name="tfds:cifar10", batch_size=128, random_flip=True)
    config.model = dict(features=128, latent_features=100)
    adam = dict(name="adam", learning_rate=2e-4, b1=0.5)
    config.optimizers = dict(discriminator=dict(adam), generator=dict(adam))
    # The best samples are kept beside the last: sample.py --step=best.
    config.eval_every, config.eval_samples = 2500, 1000
    config.checkpoint.best_metric = "samples/frechet"
    if variant == "tiny":
        config.eval_samples = 8
        config.num_steps, config.data.batch_size = 2, 8
        config.model.features = 16
        config.eval_examples, config.num_samples = 16, 8
    return config
