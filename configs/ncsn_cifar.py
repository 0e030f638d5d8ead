"""A noise-conditional score network on CIFAR-10: arXiv:1907.05600, Sec. 5.

The paper reports FID 25.32 and an Inception score of 8.87 (Table 1). Its levels are
from 1 to 0.01 of images in [0, 1]: twice that here. Its network is a RefineNet with
conditional instance norm; here it is the U-Net of DDPM.

Data: python -m genjax.data.prepare cifar10
Run: python train.py --config=configs/ncsn_cifar.py --workdir=runs/ncsn_cifar
"""

from configs import ncsn_digits
from genjax.config import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = ncsn_digits.get_config(variant)
    config.data.update(name="tfds:cifar10", random_flip=True)
    if variant == "tiny":
        return config
    config.num_steps = 200_000
    config.data.batch_size = 128
    config.model = dict(
        network=dict(
            features=128,
            multipliers=(1, 2, 2, 2),
            num_res_blocks=2,
            attention_resolutions=(16,),
        ),
        sigma_max=2.0,
        sigma_min=0.02,
        num_levels=10,
    )
    config.optimizers = dict(score=dict(name="adam", learning_rate=1e-3))
    config.sampler = dict(num_steps=100, step_size=0.1, denoise=False)
    config.sample_every = 20_000
    config.checkpoint.update(every=5_000, keep_period=50_000)
    return config
