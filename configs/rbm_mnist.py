"""A restricted Boltzmann machine of 500 hidden units on dynamically binarised MNIST.

Salakhutdinov & Murray, ICML 2008, Table 1: -86.34 nats on the test split for CD whose k
rose to 25, and -105.50 for CD-3. Here the chains persist (Tieleman, ICML 2008).
Estimates of log Z by annealed importance sampling are on average too low, and the
likelihood so too high; the paper's have 100 chains and 14,500 temperatures:
python evaluate.py --workdir=runs/rbm_mnist --likelihood.num_temperatures=14500

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/rbm_mnist.py --workdir=runs/rbm_mnist
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "energy.rbm"
    config.num_steps = 100_000
    config.data.update(name="tfds:mnist", batch_size=100)
    config.model = dict(
        num_hidden=500,
        num_steps=5,
        persistent=True,
        num_chains=100,
        binarize="dynamic",
    )
    config.optimizers = dict(rbm=dict(name="sgd", learning_rate=0.05))
    config.optimizers.rbm.schedule = "linear"
    config.sampler = dict(num_steps=5000)
    config.likelihood = dict(num_chains=100, num_temperatures=1000)
    config.log_every, config.sample_every, config.eval_every = 1000, 20_000, 20_000
    config.checkpoint.every = 20_000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.update(num_hidden=16, num_chains=4, num_steps=1)
        config.sampler.num_steps = 5
        config.likelihood.update(num_chains=4, num_temperatures=5)
        config.eval_examples, config.num_samples = 16, 8
    return config
