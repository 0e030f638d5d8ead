"""VQ-VAE and a prior over its codes on scikit-learn's 8x8 digits: arXiv:1711.00937.

Two phases: configs/vqvae_digits.py, then a class-conditional Gated PixelCNN over its
4 x 4 codes. The paper has no such small data.

Run:
python train.py --config=configs/vq_prior_digits.py --workdir=runs/vq_prior_digits
python sample.py --workdir=runs/vq_prior_digits --num=100 --label=3

To train the prior alone, over the codes of a run of configs/vqvae_digits.py, add
--config.phases="()" --config.init_from="({'workdir': 'runs/vqvae_digits'},)"
"""

from configs import vqvae_digits
from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps of each phase in seconds."""
    config = over(vqvae_digits.get_config(variant), variant)
    config.model.prior = dict(
        name="gated_pixelcnn", features=32, num_layers=4, out_features=64
    )
    config.num_steps = 1000
    if variant == "tiny":
        config.num_steps = 2
        config.model.prior.update(features=4, num_layers=2, out_features=4)
        config.optimizers.prior.warmup_steps = 1
    return config


def over(vqvae: ConfigDict, variant: str) -> ConfigDict:
    """A recipe without the prior's network, whose first phase is that of a VQ-VAE."""
    config = base_config(variant)
    config.method = "autoregressive.vq_prior"
    config.data.update(name=vqvae.data.name, batch_size=vqvae.data.batch_size)
    config.model = dict(vqvae=vqvae.model.to_dict(), prior={}, conditional=True)
    config.optimizers = dict(
        prior=dict(
            name="adam",
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=100,
            clip_norm=1.0,
        )
    )
    config.ema.update(networks=("prior",), decay=0.99)
    first = {
        "method": vqvae.method,
        "num_steps": vqvae.num_steps,
        "model": vqvae.model.to_dict(),
        "optimizers": vqvae.optimizers.to_dict(),
        "ema.networks": (),
    }
    config.phases = (first, {})
    for name in ("eval_every", "eval_examples", "num_samples"):
        config[name] = vqvae[name]
    return config
