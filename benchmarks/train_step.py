"""Times the trainer's step (loss, gradient, Adam) against diffusers' network in torch.

python -m benchmarks.train_step [--network=35.7M] [--compile] [--out=train_step.json]

The two networks have the same layers and as many parameters. Calls alternate in one
process; the ratio is the median over rounds. Nothing else should run meanwhile: torch's
threads spin while they wait, and lose far more than XLA's when a core is taken away.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import unets
from configs import ddpm_cifar
from genjax import methods
from genjax.train import optimizers, phases
from genjax.train.state import create
from genjax.train.step import make_train_step

LEARNING_RATE = 2e-4


def jax_step(name: str, batch_size: int):
    """Returns a call that takes one step of the trainer on DDPM, state donated."""
    config = ddpm_cifar.get_config()
    config.data.name = "digits"  # Any: the images below are random.
    config, _ = phases.resolve(config)
    config.data.shape = (unets.SIZE, unets.SIZE, 3)
    config.model.network.update(unets.NETWORKS[name], dropout=unets.DROPOUT)
    method = methods.load(config)
    tx, rate = optimizers.make(
        config.num_steps, name="adam", learning_rate=LEARNING_RATE
    )
    (player,) = method.players
    step = make_train_step(method, {player.name: tx}, {player.name: rate}, config)
    step = jax.jit(step, donate_argnums=0)
    shape = (1, batch_size, *config.data.shape)
    image = np.random.RandomState(0).randint(256, size=shape).astype(np.uint8)
    batch = {"image": jnp.asarray(image)}
    # No average of the weights: the other side keeps none.
    state = create(
        method, {player.name: tx}, (), jax.random.key(0), {"image": image[0]}
    )
    carry = [state]

    def call():
        carry[0], metrics = step(carry[0], batch, jax.random.key(1))
        metrics["denoiser/loss"].block_until_ready()

    return call


def torch_step(name: str, batch_size: int, *, compiled: bool = False):
    """Returns a call that takes one step."""
    import torch

    net = unets.theirs(name)
    optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE)
    x0 = torch.randn(batch_size, 3, unets.SIZE, unets.SIZE)
    forward = torch.compile(net) if compiled else net

    def call():
        t = torch.randint(0, 1000, (batch_size,))
        eps = torch.randn_like(x0)
        loss = torch.mean(torch.square(forward(x0 + eps, t).sample - eps))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()

    return call


def main() -> None:
    parser = unets.arguments(__doc__)
    parser.set_defaults(network=["35.7M"], batch_sizes=[16])
    unets.compare(parser.parse_args(), "train", jax_step, torch_step)


if __name__ == "__main__":
    main()
