"""FFJORD, arXiv:1810.01367, on a checkerboard in the plane, in minutes on a CPU.

Three hidden layers of 64 units and the exact trace. The truth's own mean log-density
there is -log 32 = -3.466 nats.

Run: python train.py --config=configs/ffjord_checkerboard.py --workdir=runs/ffjord
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "flow.ffjord"
    config.num_steps = 1200
    config.data.update(name="synthetic:checkerboard", batch_size=256)
    config.model = dict(
        network=dict(name="mlp", features=(64, 64, 64), activation="tanh"),
        trace="exact",
        kinetic_energy=0.01,
        tolerance=1e-4,
    )
    config.optimizers = dict(
        flow=dict(name="adam", learning_rate=3e-3, schedule="cosine", clip_norm=10.0)
    )
    config.log_every, config.sample_every, config.eval_every = 100, 600, 600
    config.eval_examples, config.num_samples = 4000, 1000
    config.checkpoint.every = 600
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.network.features = (8,)
        config.eval_examples, config.num_samples = 16, 8
    return config
