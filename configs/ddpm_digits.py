"""Class-conditional DDPM on scikit-learn's 8x8 digits, in minutes on a CPU.

Run: python train.py --config=configs/ddpm_digits.py --workdir=runs/ddpm_digits
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "diffusion.ddpm"
    config.num_steps = 1800
    config.data.update(name="digits", batch_size=64)
    config.model = dict(
        schedule=dict(name="cosine", num_steps=1000),
        network=dict(
            features=32,
            multipliers=(1, 2),
            num_res_blocks=1,
            attention_resolutions=(4,),
        ),
        conditional=True,
        label_dropout=0.1,
    )
    config.optimizers = dict(
        denoiser=dict(
            name="adam", learning_rate=1e-3, schedule="cosine", warmup_steps=100
        )
    )
    config.ema.update(networks=("denoiser",), decay=0.999)
    config.sample_every = 500
    config.sampler = dict(name="ddim", num_steps=50, guidance_scale=1.15)
    if variant == "tiny":
        config.model.schedule.num_steps = 20
        config.num_steps, config.data.batch_size = 2, 8
        config.optimizers.denoiser.warmup_steps = 1
        config.model.network.update(features=8, multipliers=(1,), num_res_blocks=1)
        config.model.network.attention_resolutions = ()
        config.sampler.num_steps = 4
        config.num_samples = 8
    return config
