"""Classifier guidance on 8x8 digits, arXiv:2105.05233: nothing is trained here.

Run, after configs/ddpm_digits.py and configs/noisy_classifier_digits.py have run:
python train.py --config=configs/guidance_digits.py --workdir=runs/guidance_digits
python sample.py --workdir=runs/guidance_digits --num=100 --guidance_scale=3

The first command joins the two networks in one checkpoint and draws a grid. The
denoiser is told "no class": the label comes from the classifier alone.
"""

from configs import ddpm_digits, noisy_classifier_digits
from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" joins the tiny variants of the other two."""
    denoiser = ddpm_digits.get_config(variant).model.to_dict()
    classifier = noisy_classifier_digits.get_config(variant).model.to_dict()
    config = base_config(variant)
    config.method = "diffusion.classifier_guidance"
    config.data.update(name="digits", batch_size=8)
    config.model = dict(
        denoiser=denoiser,
        classifier=classifier["network"],
    )
    config.init_from = (
        dict(workdir="runs/ddpm_digits"),
        dict(workdir="runs/noisy_classifier_digits"),
    )
    config.sampler = dict(name="ddpm", num_steps=250, guidance_scale=1.0)
    if variant == "tiny":
        config.sampler.num_steps, config.num_samples = 2, 8
    return config
