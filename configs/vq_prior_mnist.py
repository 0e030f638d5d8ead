"""VQ-VAE and a prior over its codes on MNIST: arXiv:1711.00937, Sec. 3.3 and 4.

Two phases: configs/vqvae_mnist.py, then a class-conditional Gated PixelCNN over its
7 x 7 codes. The steps are what two cores take in 20 minutes. The paper does not use
MNIST.

Data: python -m genjax.data.prepare mnist

Run:
python train.py --config=configs/vq_prior_mnist.py --workdir=runs/vq_prior_mnist
python sample.py --workdir=runs/vq_prior_mnist --num=100
"""

from configs import vq_prior_digits, vqvae_mnist
from genjax.config import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps of each phase in seconds."""
    config = vq_prior_digits.over(vqvae_mnist.get_config(variant), variant)
    config.model.prior = vq_prior_digits.get_config(variant).model.prior
    if variant == "tiny":
        config.num_steps, config.optimizers.prior.warmup_steps = 2, 1
        return config
    config.model.prior.update(features=64, num_layers=6, out_features=128)
    config.num_steps = 6000
    config.ema.decay = 0.999
    return config
