"""DDPM on CIFAR-10: arXiv:2006.11239, Appendix B, unconditional, 35,746,307 parameters.

Data: python -m genjax.data.prepare cifar10
Run: python train.py --config=configs/ddpm_cifar.py --workdir=runs/ddpm_cifar

The paper reports FID 3.17 and a bound of 3.75 bits/dim on the test split (Table 1).
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "diffusion.ddpm"
    config.num_steps = 800_000
    config.data.update(name="tfds:cifar10", batch_size=128, random_flip=True)
    config.model = dict(
        schedule=dict(name="linear", num_steps=1000, beta_min=1e-4, beta_max=0.02),
        network=dict(
            features=128,
            multipliers=(1, 2, 2, 2),
            num_res_blocks=2,
            attention_resolutions=(16,),
            dropout=0.1,
            fused_attention=True,
        ),
        variance="large",
    )
    config.optimizers = dict(denoiser=dict(name="adam", learning_rate=2e-4))
    config.ema.update(networks=("denoiser",), decay=0.9999, warmup=False)
    config.sampler = dict(name="ddpm", num_steps=1000)
    config.sample_every = 20_000
    config.checkpoint.update(every=5_000, keep_period=100_000)
    if variant == "tiny":
        config.model.schedule.num_steps = 20
        config.num_steps, config.data.batch_size = 2, 8
        config.model.network.update(features=8, multipliers=(1,), num_res_blocks=1)
        config.model.network.attention_resolutions = ()
        config.sampler.num_steps, config.num_samples = 2, 8
    return config
