"""Times 50 steps of DDIM against diffusers' network and scheduler in torch.

python -m benchmarks.sampling [--network 1.0M] [--compile] [--out=sampling.json]

Ours is one compiled scan; theirs is the loop from diffusers' documentation. Calls
alternate in one process; the ratio is the median over rounds.
"""

import argparse

import jax

from benchmarks import unets
from genjax import schedules
from genjax.samplers import diffusion
from genjax.train import runtime

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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = list(unets.NETWORKS)
    parser.add_argument("--network", choices=names, default=["1.0M"], nargs="*")
    parser.add_argument("--batch-sizes", type=int, default=[1, 16], nargs="*")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--compile", action="store_true", help="and torch.compile")
    parser.add_argument("--only-ours", action="store_true")
    parser.add_argument("--out", help="JSON file to write")
    args = parser.parse_args()
    if not args.only_ours:
        unets.require_torch()
    runtime.use_all_cores()
    rows = []
    for name in args.network:
        for batch_size in args.batch_sizes:
            contenders = {"genjax": jax_loop(name, batch_size)}
            if not args.only_ours:
                contenders["diffusers, eager"] = torch_loop(name, batch_size)
            if args.compile and not args.only_ours:
                compiled = torch_loop(name, batch_size, compiled=True)
                contenders["diffusers, torch.compile"] = compiled
            results = unets.race(contenders, args.rounds)
            task = f"DDIM-{STEPS} {name}, batch {batch_size}"
            rows.append({"task": task, "items": batch_size, "results": results})
    unets.report(rows, "images", args.out)


if __name__ == "__main__":
    main()
