"""WGAN-GP on CIFAR-10 by ResNets without labels: arXiv:1704.00028, Sec. 5.4, App. F.

The paper reports an Inception score of 7.86. Each update of either player sees a batch
of 64; the authors' code gives the generator 128.

Data: python -m genjax.data.prepare cifar10
Run: python train.py --config=configs/wgan_gp_cifar.py --workdir=runs/wgan_gp_cifar
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "gan.wgan_gp"
    config.num_steps = 100_000
    config.data.update(name="tfds:cifar10", batch_size=64)
    config.model = dict(
        generator=dict(name="resnet", features=(128, 128, 128)),
        critic=dict(name="resnet", features=(128, 128, 128, 128), num_down=2),
        latent_features=128,
        critic_steps=5,
        penalty_weight=10.0,
    )
    adam = dict(name="adam", learning_rate=2e-4, b1=0.0, b2=0.9, schedule="linear")
    config.optimizers = dict(critic=dict(adam), generator=dict(adam))
    config.sample_every = 5000
    config.checkpoint.every = 5000
    # The best samples are kept beside the last: sample.py --step=best.
    config.eval_every, config.eval_samples = 2500, 1000
    config.checkpoint.best_metric = "samples/frechet"
    if variant == "tiny":
        config.eval_samples = 8
        config.num_steps, config.data.batch_size = 2, 8
        config.model.update(latent_features=8, critic_steps=1)
        config.model.generator.features = (8, 8)
        config.model.critic.features = (8, 8)
        config.eval_examples, config.num_samples = 16, 8
    return config
