"""AC-GAN, arXiv:1610.09585, on scikit-learn's 8x8 digits, in a minute on a CPU.

The paper's networks for 32 x 32 and larger images give way to DCGAN's generator and a
perceptron, which judges images of 64 pixels better than one strided convolution.

Run: python train.py --config=configs/ac_gan_digits.py --workdir=runs/ac_gan_digits
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "gan.ac_gan"
    config.num_steps = 3000
    config.data.update(name="digits", batch_size=64)
    config.model = dict(
        generator=dict(name="dcgan", features=64),
        discriminator=dict(name="mlp", features=(256, 256)),
        latent_features=64,
    )
    adam = dict(name="adam", learning_rate=5e-4, b1=0.5)
    config.optimizers = dict(discriminator=dict(adam), generator=dict(adam))
    config.ema.update(networks=("generator",), decay=0.999)
    config.sample_every = 1000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.generator.features = 32
        config.model.discriminator.features = (8,)
        config.eval_examples, config.num_samples = 16, 8
    return config
