"""A class-conditional energy network, arXiv:1903.08689, on scikit-learn's 8x8 digits.

Run: python train.py --config=configs/igebm_digits.py --workdir=runs/igebm_digits
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "energy.igebm"
    config.num_steps = 6000
    config.data.update(name="digits", batch_size=64)
    config.model = dict(
        network=dict(name="mlp", features=(256, 256), activation="silu"),
        num_steps=20,
        step_size=10.0,
        noise=0.2,
        clip_grad=0.05,
        buffer_size=2000,
        restart=0.05,
        magnitude_weight=0.1,
        data_noise=0.1,
        conditional=True,
    )
    config.optimizers = dict(
        energy=dict(
            name="adam", learning_rate=1e-3, b1=0.0, b2=0.999, schedule="cosine"
        )
    )
    config.ema.update(networks=("energy",), decay=0.99)
    config.sampler = dict(num_steps=400)
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.network.features = (16,)
        config.model.update(num_steps=2, buffer_size=16)
        config.sampler.num_steps = 2
        config.eval_examples, config.num_samples = 16, 8
    return config
