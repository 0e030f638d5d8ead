"""A restricted Boltzmann machine on scikit-learn's 8x8 digits, in minutes on a CPU.

Persistent chains, Tieleman, ICML 2008; each pixel is drawn with probability
image / 255, anew at each step. The likelihood needs the partition function: annealed
importance sampling, Salakhutdinov & Murray, ICML 2008.

Run: python train.py --config=configs/rbm_digits.py --workdir=runs/rbm_digits
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "energy.rbm"
    config.num_steps = 20_000
    config.data.update(name="digits", batch_size=100)
    config.model = dict(
        num_hidden=200,
        num_steps=1,
        persistent=True,
        num_chains=100,
        binarize="dynamic",
    )
    config.optimizers = dict(rbm=dict(name="sgd", learning_rate=0.05))
    config.optimizers.rbm.schedule = "linear"
    config.sampler = dict(num_steps=1000)
    config.likelihood = dict(num_chains=100, num_temperatures=1000)
    config.log_every, config.sample_every, config.eval_every = 500, 5000, 5000
    config.checkpoint.every = 5000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.update(num_hidden=16, num_chains=4)
        config.sampler.num_steps = 5
        config.likelihood.update(num_chains=4, num_temperatures=5)
        config.eval_examples, config.num_samples = 16, 8
    return config
