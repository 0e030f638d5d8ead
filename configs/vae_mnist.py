"""VAE on dynamically binarised MNIST: arXiv:1312.6114 with a deeper network.

The paper's 500 tanh units in two layers each way, where it has one, and Adam instead of
Adagrad; 20 latent dimensions. Each pixel is drawn with probability image / 255, anew at
each step, as in arXiv:1509.00519, whose VAE with two hidden layers reaches 86.76 nats.
Its protocol, with 500 samples for 5,000:
python evaluate.py --workdir=runs/vae_mnist --likelihood.num_samples=500

Data: python -m genjax.data.prepare mnist
Run: python train.py --config=configs/vae_mnist.py --workdir=runs/vae_mnist
"""

from genjax.config import ConfigDict, base_config


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; variant "tiny" takes two steps in seconds."""
    config = base_config(variant)
    config.method = "vae.vae"
    config.num_steps = 40_000
    config.data.update(name="tfds:mnist", batch_size=128)
    config.model = dict(
        latent_features=20,
        network=dict(name="mlp", features=(500, 500), activation="tanh"),
        decoder="bernoulli",
        binarize="dynamic",
    )
    config.optimizers = dict(
        vae=dict(name="adam", learning_rate=1e-3, schedule="cosine")
    )
    config.log_every, config.sample_every = 500, 10_000
    config.eval_every = 10_000
    config.eval_examples = 10_000
    config.checkpoint.every = 20_000
    if variant == "tiny":
        config.num_steps, config.data.batch_size = 2, 8
        config.model.latent_features = 3
        config.model.network.features = (16,)
        config.eval_examples, config.num_samples = 16, 8
    return config
