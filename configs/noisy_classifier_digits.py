"""A classifier of noisy 8x8 digits, arXiv:2105.05233, for configs/guidance_digits.py.

Run: python train.py --config=configs/noisy_classifier_digits.py \\
    --workdir=runs/noisy_classifier_digits
"""

from configs import ddpm_digits
from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "diffusion.noisy_classifier"
    config.num_steps = 1000
    config.data.update(name="digits", batch_size=128)
    config.model = dict(
        schedule=ddpm_digits.get_config().model.schedule.to_dict(),
        network=dict(
            features=32,
            multipliers=(1, 2),
            num_res_blocks=1,
            attention_resolutions=(4,),
            dropout=0.1,
        ),
    )
    config.optimizers = dict(
        classifier=dict(
            name="adamw", learning_rate=1e-3, schedule="cosine", weight_decay=0.05
        )
    )
    config.ema.update(networks=("classifier",), decay=0.99)
    config.eval_every = 250
    if variant == "tiny":
        config.model.schedule.num_steps = 20
        config.num_steps, config.data.batch_size = 2, 8
        config.model.network.update(features=8, multipliers=(1,), num_res_blocks=1)
        config.model.network.attention_resolutions = ()
        config.eval_examples = 16
    return config
