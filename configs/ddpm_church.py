"""DDPM on LSUN Church at 256 x 256: arXiv:2006.11239, Appendix B, 113.7M parameters.

Run: python train.py --config=configs/ddpm_church.py --workdir=runs/ddpm_church \\
    --config.data.name=folder:path/to/church_outdoor_train

The pictures come from lsun.cs.princeton.edu; any folder will do. On several chips
config.mesh.fsdp splits weights and optimiser state over as many. The paper reports FID
7.89 (Table 3).
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "diffusion.ddpm"
    config.num_steps = 1_200_000
    config.data.update(name="folder:church_outdoor_train", image_size=(256, 256))
    config.data.update(batch_size=64, random_flip=True)
    config.model = dict(
        schedule=dict(name="linear", num_steps=1000, beta_min=1e-4, beta_max=0.02),
        network=dict(
            features=128,
            multipliers=(1, 1, 2, 2, 4, 4),
            num_res_blocks=2,
            attention_resolutions=(16,),
            dropout=0.0,
        ),
        variance="large",
    )
    config.optimizers = dict(denoiser=dict(name="adam", learning_rate=2e-5))
    config.ema.update(networks=("denoiser",), decay=0.9999, warmup=False)
    config.sampler = dict(name="ddpm", num_steps=1000)
    config.sample_every, config.num_samples = 20_000, 16
    config.checkpoint.update(every=5_000, keep_period=100_000)
    if variant == "tiny":
        config.model.schedule.num_steps = 20
        config.num_steps, config.data.batch_size = 2, 8
        config.model.network.update(features=8, multipliers=(1, 1), num_res_blocks=1)
        config.model.network.attention_resolutions = ()
        config.sampler.num_steps, config.num_samples = 2, 8
    return config
