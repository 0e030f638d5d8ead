"""DDPM on a folder of your own images, arXiv:2006.11239 with ADM's U-Net.

Run: python train.py --config=configs/ddpm_folder.py --workdir=runs/mine \\
    --config.data.name=folder:path/to/images --config.data.image_size='(64, 96)'

Any size that the levels can halve will do: with four of them, multiples of 8. Class
sub-folders become labels with --config.model.conditional=True.
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "diffusion.ddpm"
    config.num_steps = 200_000
    config.data.update(name="folder:images", image_size=(64, 64), batch_size=64)
    config.data.random_flip = True
    config.model = dict(
        schedule=dict(name="cosine", num_steps=1000),
        network=dict(
            features=128,
            multipliers=(1, 2, 3, 4),
            num_res_blocks=2,
            attention_resolutions=(16, 8),
            head_features=64,
            scale_shift=True,
            resblock_updown=True,
            dropout=0.1,
        ),
        prediction="v",
        conditional=False,
        label_dropout=0.1,
    )
    config.optimizers = dict(
        denoiser=dict(name="adam", learning_rate=1e-4, warmup_steps=1000, clip_norm=1.0)
    )
    config.ema.update(networks=("denoiser",), decay=0.9999)
    config.sampler = dict(name="ddim", num_steps=100)
    config.sample_every = 5_000
    if variant == "tiny":
        config.model.schedule.num_steps = 20
        config.num_steps, config.data.batch_size = 2, 8
        config.model.network.update(
            features=8, multipliers=(1, 1), num_res_blocks=1, head_features=8
        )
        config.model.network.attention_resolutions = ()
        config.sampler.num_steps, config.num_samples = 2, 8
    return config
