"""Times 50 steps of DDIM against diffusers' network and scheduler in torch.

python -m benchmarks.sampling [--network 1.0M] [--compile] [--out=sampling.json]

Ours is one compiled scan; theirs is the loop from diffusers' documentation. Calls
alternate in one process; the ratio is the median over rounds.
"""

import jax

from benchmarks import unets
from genjax import schedules
from genjax.samplers import diffusion

TRAIN_STEPS, STEPS = 1000, 50


def jax_loop(name: str, batch_size: int):
    """Returns a call that draws one batch."""
    net, params, x_T = unets.ours(name, batch_size)

    @jax.jit
    def sample(params, x_T):
        return diffusion.ddim(
            lambda x, t: net.apply(params, x, t, train=False),
            x_T,
            alphas_cumprod=schedules.alphas_cumprod(schedules.linear(TRAIN_STEPS)),
            steps=schedules.timesteps(TRAIN_STEPS, STEPS),
        )

    return lambda: sample(params, x_T).block_until_ready()


def torch_loop(name: str, batch_size: int, *, compiled: bool = False):
    """Returns a call that draws one batch."""
    import torch
    from diffusers import DDIMScheduler

    net = unets.theirs(name).eval()
    forward = torch.compile(net) if compiled else net
    scheduler = DDIMScheduler(TRAIN_STEPS, beta_schedule="linear")
    scheduler.set_timesteps(STEPS)
    x_T = torch.randn(batch_size, 3, unets.SIZE, unets.SIZE)

    def call():
        x = x_T
        with torch.inference_mode():
            for t in scheduler.timesteps:
                x = scheduler.step(forward(x, t).sample, t, x).prev_sample

    return call


def main() -> None:
    parser = unets.arguments(__doc__)
    parser.set_defaults(network=["1.0M"], batch_sizes=[1, 16])
    unets.compare(parser.parse_args(), f"DDIM-{STEPS}", jax_loop, torch_loop)


if __name__ == "__main__":
    main()
