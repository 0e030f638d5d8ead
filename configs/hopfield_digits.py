"""A modern Hopfield network of 200 of scikit-learn's 8x8 digits: arXiv:2008.02217.

Nothing is trained: the command stores the first batch. Then, for the hidden half of
digits that were stored or not:
python sample.py --workdir=runs/hopfield_digits --what=complete

Run: python train.py --config=configs/hopfield_digits.py --workdir=runs/hopfield_digits
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" stores eight digits that mix."""
    config = base_config(variant)
    config.method = "energy.hopfield"
    config.data.update(name="digits", batch_size=200)
    config.model = dict(kind="modern", beta=8.0, num_steps=3)
    if variant == "tiny":
        config.data.batch_size, config.num_samples = 8, 8
        config.model.update(beta=0.1, num_steps=1)
    return config
