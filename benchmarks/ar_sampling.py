"""Times sampling with cached activations against the whole network at each step.

python -m benchmarks.ar_sampling [--config=gated_pixelcnn_mnist] [--sides 28 32]

Both draw the same images from the same keys with untrained weights that are moved at
random; calls alternate in one process, compiled before.
"""

import argparse
import importlib
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

from genjax import methods
from genjax.config import ConfigDict
from genjax.train.runtime import use_all_cores


def sampler(config: ConfigDict, batch_size: int, incremental: bool):
    """() -> samples, compiled."""
    config.sampler = dict(incremental=incremental)
    method, shape = methods.load(config), tuple(config.data.shape)
    batch = {"image": jnp.zeros((1, *shape), jnp.uint8)}
    params, state = jax.jit(method.init)(jax.random.key(0), batch)
    leaves, structure = jax.tree.flatten(params)
    random = np.random.RandomState(0)
    leaves = [
        x + 0.05 * random.standard_normal(x.shape).astype(x.dtype) for x in leaves
    ]
    params = jax.tree.unflatten(structure, leaves)
    keys = jax.random.split(jax.random.key(1), batch_size)
    draw = jax.jit(lambda keys: method.sample(params, state, keys, {}))
    return lambda: jax.block_until_ready(draw(keys))


def seconds(call) -> float:
    """One call's wall time."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    use_all_cores()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="gated_pixelcnn_mnist", help="a recipe")
    parser.add_argument("--sides", type=int, nargs="+", default=[28, 32])
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    config = importlib.import_module(f"configs.{args.config}").get_config()
    channels = 3 if "cifar" in config.data.name else 1
    for side in args.sides:
        config.data.shape = (side, side, channels)
        fast, slow = (sampler(config, args.batch_size, x) for x in (True, False))
        agree = float((np.asarray(fast()) == np.asarray(slow())).mean())
        rounds = [(seconds(fast), seconds(slow)) for _ in range(args.rounds)]
        report = {
            "config": args.config,
            "shape": list(config.data.shape),
            "batch_size": args.batch_size,
            "cached_seconds": round(float(np.median(rounds, axis=0)[0]), 3),
            "naive_seconds": round(float(np.median(rounds, axis=0)[1]), 1),
            "ratio": round(float(np.median([b / a for a, b in rounds])), 1),
            "share_of_equal_levels": agree,
        }
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
