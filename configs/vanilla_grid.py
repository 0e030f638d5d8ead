"""The original GAN, arXiv:1406.2661, on 25 Gaussians in the plane: the minimax game.

The five *_grid recipes share networks, latents, batch size, generator steps, the linear
decay and the generator's average. They differ in the objective and in what belongs to
it: the Wasserstein ones take five critic steps and other optimisers. Learning rates are
above the papers', so that a run takes minutes on one core.

Run: python train.py --config=configs/vanilla_grid.py --workdir=runs/vanilla_grid
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "gan.vanilla"
    config.num_steps = 10_000
    config.data.update(name="synthetic:grid", batch_size=256)
    features = (128, 128, 128)
    config.model = dict(
        generator=dict(name="mlp", features=features),
        discriminator=dict(name="mlp", features=features),
        latent_features=2,
        generator_loss="minimax",
    )
    adam = dict(name="adam", learning_rate=1e-3, b1=0.5, schedule="linear")
    config.optimizers = dict(discriminator=dict(adam), generator=dict(adam))
    config.ema.update(networks=("generator",), decay=0.999)
    config.log_every, config.sample_every, config.num_samples = 500, 2500, 2500
    config.eval_every, config.eval_samples = 2500, 10_000  # Modes and good samples.
    config.checkpoint.every = 5000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.generator.features = (16, 16)
        config.model.discriminator.features = (16, 16)
        config.eval_examples, config.eval_samples, config.num_samples = 16, 16, 8
    return config
