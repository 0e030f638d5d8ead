"""An energy network on CIFAR-10: arXiv:1903.08689, Sec. 4.2 and the authors' command.

The paper reports an Inception score of 6.02 and FID 40.58 without labels, and with
them, conditional=True, 8.30 and 37.9. Samples are of the replay buffer. The authors
evaluate theirs after 121,200 steps; their code remembers 50,000 chains, the paper
10,000.

Data: python -m genjax.data.prepare cifar10
Run: python train.py --config=configs/igebm_cifar.py --workdir=runs/igebm_cifar
"""

from configs import igebm_digits
from genjax.config import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = igebm_digits.get_config(variant)
    config.data.name = "tfds:cifar10"
    network = dict(name="conv", features=(128, 256, 256), num_blocks=2)
    config.model.update(network=network, conditional=False)
    if variant == "tiny":
        config.model.network.update(features=(4,), num_blocks=1)
        return config
    config.num_steps = 121_200
    config.data.batch_size = 128
    config.model = dict(
        network=config.model.network,
        num_steps=60,
        step_size=40.0,
        noise=0.01,
        clip_grad=0.005,
        buffer_size=10_000,
        restart=0.05,
        magnitude_weight=1.0,
        data_noise=0.0,
    )
    config.optimizers = dict(
        energy=dict(name="adam", learning_rate=3e-4, b1=0.0, b2=0.999)
    )
    config.ema.decay = 0.999
    config.sampler = dict(start="buffer", num_steps=60)
    config.sample_every = 5000
    config.checkpoint.update(every=5000, keep_period=25_000)
    return config
