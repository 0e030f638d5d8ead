"""An energy network, arXiv:1903.08689, on four concentric rings of points.

Its chains carry the noise of Langevin dynamics proper, so that the energy is that of
the density. But hardly a chain goes from ring to ring, and none says how the rings'
energies compare; the weight of the squared energies keeps them near one another:
python sample.py --workdir=runs/igebm_rings --what=density

Run: python train.py --config=configs/igebm_rings.py --workdir=runs/igebm_rings
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "energy.igebm"
    config.num_steps = 4000
    config.data.update(name="synthetic:rings", batch_size=256)
    config.model = dict(
        network=dict(name="mlp", features=(128, 128, 128), activation="silu"),
        num_steps=20,
        step_size=0.004,
        noise=None,
        clip_grad=None,
        buffer_size=10_000,
        restart=0.01,
        start_scale=4.5,
        magnitude_weight=0.05,
    )
    config.optimizers = dict(
        energy=dict(
            name="adam", learning_rate=5e-3, b1=0.0, b2=0.999, schedule="cosine"
        )
    )
    config.optimizers.energy.clip_norm = 1.0
    config.ema.update(networks=("energy",), decay=0.99)
    config.sampler = dict(start="buffer", num_steps=50)
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.network.features = (16,)
        config.model.update(num_steps=2, buffer_size=16)
        config.sampler.num_steps = 2
        config.eval_examples, config.num_samples = 16, 8
    return config
