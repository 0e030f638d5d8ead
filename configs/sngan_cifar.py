"""SNGAN on CIFAR-10, the ResNet without labels: arXiv:1802.05957, Sec. 4.1 and Table 4.

The paper reports an Inception score of 8.22 and an FID of 21.7 for the hinge loss. The
steps and the decay of the rate are those of the authors' published configuration; it
shows each update of the generator 128 latents, here 64.

Data: python -m genjax.data.prepare cifar10
Run: python train.py --config=configs/sngan_cifar.py --workdir=runs/sngan_cifar
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "gan.sngan"
    config.num_steps = 50_000
    config.data.update(name="tfds:cifar10", batch_size=64)
    config.model = dict(
        generator=dict(name="resnet", features=(256, 256, 256)),
        discriminator=dict(
            name="resnet", features=(128, 128, 128, 128), num_down=2, pool="sum"
        ),
        latent_features=128,
        loss="hinge",
        discriminator_steps=5,
    )
    adam = dict(name="adam", learning_rate=2e-4, b1=0.0, b2=0.9, schedule="linear")
    config.optimizers = dict(discriminator=dict(adam), generator=dict(adam))
    config.sample_every = 5000
    config.checkpoint.every = 5000
    # The best samples are kept beside the last: sample.py --step=best.
    config.eval_every, config.eval_samples = 2500, 1000
    config.checkpoint.best_metric = "samples/frechet"
    if variant == "tiny":
        config.eval_samples = 8
        config.num_steps, config.data.batch_size = 2, 8
        config.model.update(latent_features=8, discriminator_steps=1)
        config.model.generator.features = (8, 8)
        config.model.discriminator.features = (8, 8)
        config.eval_examples, config.num_samples = 16, 8
    return config
