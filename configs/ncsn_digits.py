"""A noise-conditional score network, arXiv:1907.05600, on scikit-learn's 8x8 digits.

Noise levels and steps follow arXiv:2006.09011: the first level is about the largest
distance between two digits, and there are many levels of few steps.

Run: python train.py --config=configs/ncsn_digits.py --workdir=runs/ncsn_digits
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "energy.ncsn"
    config.num_steps = 3000
    config.data.update(name="digits", batch_size=64)
    config.model = dict(
        network=dict(
            features=32,
            multipliers=(1, 2),
            num_res_blocks=1,
            attention_resolutions=(4,),
        ),
        sigma_max=10.0,
        sigma_min=0.05,
        num_levels=30,
    )
    config.optimizers = dict(
        score=dict(name="adam", learning_rate=1e-3, schedule="cosine", warmup_steps=100)
    )
    config.ema.update(networks=("score",), decay=0.999)
    config.sampler = dict(num_steps=5, step_size=0.1)
    config.sample_every = 1000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.optimizers.score.warmup_steps = 1
        config.model.network.update(features=8, multipliers=(1,), num_res_blocks=1)
        config.model.network.attention_resolutions = ()
        config.model.update(num_levels=3, sigma_max=1.0)
        config.sampler.num_steps = 1
        config.eval_examples, config.num_samples = 16, 8
    return config
