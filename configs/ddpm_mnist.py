"""Class-conditional DDPM on MNIST, arXiv:2006.11239 with a smaller U-Net.

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/ddpm_mnist.py --workdir=runs/ddpm_mnist
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "diffusion.ddpm"
    config.num_steps = 20_000
    config.data.update(name="tfds:mnist", batch_size=128)
    config.model = dict(
        schedule=dict(name="cosine", num_steps=1000),
        network=dict(
            features=32,
            multipliers=(1, 2, 2),
            num_res_blocks=2,
            attention_resolutions=(7,),
            dropout=0.1,
        ),
        conditional=True,
        label_dropout=0.1,
    )
    config.optimizers = dict(
        denoiser=dict(name="adam", learning_rate=5e-4, schedule="cosine")
    )
    config.ema.update(networks=("denoiser",), decay=0.999)
    config.sampler = dict(name="ddpm", num_steps=250)
    config.eval_every = 1000
    if variant == "tiny":
        config.model.schedule.num_steps = 20
        config.num_steps, config.data.batch_size = 2, 8
        config.model.network.update(features=8, multipliers=(1,), num_res_blocks=1)
        config.model.network.attention_resolutions = ()
        config.sampler.num_steps, config.num_samples = 2, 8
        config.eval_examples = 16
    return config
