"""Random weights of the FID's Inception, as a state dict of its PyTorch port."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from genjax.metrics import inception


def random_weights(shapes):
    """Weights of a state dict's names and shapes, that keep activations in range."""
    weights = {}
    for i, (name, shape) in enumerate(sorted(shapes.items())):
        random = np.random.default_rng(i)
        if len(shape) > 1:
            fan_in = np.prod(shape[1:])
            value = random.standard_normal(shape) * np.sqrt(2 / fan_in)
        elif name.endswith(("bn.weight", "running_var")):
            value = random.uniform(0.5, 1.5, shape)
        else:
            value = random.uniform(-0.2, 0.2, shape)
        weights[name] = value.astype(np.float32)
    return weights


def torch_shapes():
    """Names and shapes of the port's state dict."""
    image = jnp.zeros((1, 299, 299, 3))
    params = jax.eval_shape(inception.Inception().init, jax.random.key(0), image)
    names = dict(scale="weight", bias="bias", mean="running_mean", var="running_var")
    shapes = {"fc.bias": (1008,)}
    for path, leaf in traverse_util.flatten_dict(params["params"]).items():
        *modules, last = path
        if last == "kernel":
            order = (3, 2, 0, 1) if leaf.ndim == 4 else (1, 0)
            shapes[".".join([*modules, "weight"])] = tuple(leaf.shape[i] for i in order)
        else:
            shapes[".".join([*modules, "bn", names[last]])] = leaf.shape
    return shapes


def pictures():
    """Two smooth pictures with sharp edges, uint8 [2, 32, 40, 3]."""
    y, x, c = np.meshgrid(np.arange(32), np.arange(40), np.arange(3), indexing="ij")
    waves = 127.5 + 127.5 * np.sin(x / (2 + c) + y / 5)
    disc = np.where((x - 20) ** 2 + y**2 < 300, waves, 255 * (c > 0))
    return np.stack([waves, disc]).astype(np.uint8)
