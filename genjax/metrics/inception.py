"""The Inception-v3 of the FID: the network of 2015 with TensorFlow's own weights.

It differs from the paper's network, and from newer weights: averages leave the padding
out, the last block takes a maximum instead, and there are 1008 classes. Features of any
other Inception make another distance. The weights are not ours to ship:

    pt_inception-2015-12-05-6726825d.pth, 95,628,359 bytes, of SHA-256
    6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2,
    from the release "fid_weights" of github.com/mseitzer/pytorch-fid

This converts them, with torch (the extra "bench"); the result belongs in the cache
folder, ~/.cache/genjax on Linux, or is named by --weights:

    python -m genjax.metrics.inception pt_inception-2015-12-05-6726825d.pth

References:
    Szegedy et al., arXiv:1512.00567.
    Heusel et al., arXiv:1706.08500.
"""

import argparse
import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from genjax.untrusted import read_safetensors

NAME = "pt_inception-2015-12-05-6726825d"
PTH_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SIDE, NUM_FEATURES, NUM_CLASSES = 299, 2048, 1008


class Conv(NamedTuple):
    """A convolution, batch norm and ReLU."""

    name: str
    features: int
    kernel: int | tuple[int, int]
    stride: int = 1
    padding: str = "SAME"


class Pool(NamedTuple):
    """An average or a maximum over 3 x 3."""

    kind: str
    stride: int = 1
    padding: str = "SAME"


class Fork(NamedTuple):
    """Two convolutions of the same input, side by side."""

    first: Conv
    second: Conv


# A block is a list of branches side by side, a branch a list of what follows each
# other. Names are those of the weights' file.
STRIDED = dict(stride=2, padding="VALID")
MAX_POOL = Pool("max", **STRIDED)


def block_a(pool: int) -> list:
    """35 x 35."""
    return [
        [Conv("branch1x1", 64, 1)],
        [Conv("branch5x5_1", 48, 1), Conv("branch5x5_2", 64, 5)],
        [
            Conv("branch3x3dbl_1", 64, 1),
            Conv("branch3x3dbl_2", 96, 3),
            Conv("branch3x3dbl_3", 96, 3),
        ],
        [Pool("average"), Conv("branch_pool", pool, 1)],
    ]


def block_b() -> list:
    """35 x 35 -> 17 x 17."""
    return [
        [Conv("branch3x3", 384, 3, **STRIDED)],
        [
            Conv("branch3x3dbl_1", 64, 1),
            Conv("branch3x3dbl_2", 96, 3),
            Conv("branch3x3dbl_3", 96, 3, **STRIDED),
        ],
        [MAX_POOL],
    ]


def block_c(width: int) -> list:
    """17 x 17, by rows and columns of 7."""
    return [
        [Conv("branch1x1", 192, 1)],
        [
            Conv("branch7x7_1", width, 1),
            Conv("branch7x7_2", width, (1, 7)),
            Conv("branch7x7_3", 192, (7, 1)),
        ],
        [
            Conv("branch7x7dbl_1", width, 1),
            Conv("branch7x7dbl_2", width, (7, 1)),
            Conv("branch7x7dbl_3", width, (1, 7)),
            Conv("branch7x7dbl_4", width, (7, 1)),
            Conv("branch7x7dbl_5", 192, (1, 7)),
        ],
        [Pool("average"), Conv("branch_pool", 192, 1)],
    ]


def block_d() -> list:
    """17 x 17 -> 8 x 8."""
    return [
        [Conv("branch3x3_1", 192, 1), Conv("branch3x3_2", 320, 3, **STRIDED)],
        [
            Conv("branch7x7x3_1", 192, 1),
            Conv("branch7x7x3_2", 192, (1, 7)),
            Conv("branch7x7x3_3", 192, (7, 1)),
            Conv("branch7x7x3_4", 192, 3, **STRIDED),
        ],
        [MAX_POOL],
    ]


def block_e(pool: str) -> list:
    """8 x 8, with forks."""

    def fork(name: str) -> Fork:
        return Fork(Conv(f"{name}a", 384, (1, 3)), Conv(f"{name}b", 384, (3, 1)))

    return [
        [Conv("branch1x1", 320, 1)],
        [Conv("branch3x3_1", 384, 1), fork("branch3x3_2")],
        [
            Conv("branch3x3dbl_1", 448, 1),
            Conv("branch3x3dbl_2", 384, 3),
            fork("branch3x3dbl_3"),
        ],
        [Pool(pool), Conv("branch_pool", 192, 1)],
    ]


LAYERS = (
    Conv("Conv2d_1a_3x3", 32, 3, **STRIDED),
    Conv("Conv2d_2a_3x3", 32, 3, padding="VALID"),
    Conv("Conv2d_2b_3x3", 64, 3),
    MAX_POOL,
    Conv("Conv2d_3b_1x1", 80, 1),
    Conv("Conv2d_4a_3x3", 192, 3, padding="VALID"),
    MAX_POOL,
    ("Mixed_5b", block_a(32)),
    ("Mixed_5c", block_a(64)),
    ("Mixed_5d", block_a(64)),
    ("Mixed_6a", block_b()),
    ("Mixed_6b", block_c(128)),
    ("Mixed_6c", block_c(160)),
    ("Mixed_6d", block_c(160)),
    ("Mixed_6e", block_c(192)),
    ("Mixed_7a", block_d()),
    ("Mixed_7b", block_e("average")),
    ("Mixed_7c", block_e("max")),
)


class ConvNorm(nn.Module):
    """`Conv`, with the norm's running statistics as parameters."""

    spec: Conv

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, H, W, C] to [B, h, w, features]."""
        kernel, stride = np.broadcast_to(self.spec.kernel, 2), (self.spec.stride,) * 2
        conv = nn.Conv(
            self.spec.features,
            tuple(map(int, kernel)),
            stride,
            self.spec.padding,
            use_bias=False,
            name="conv",
        )
        x = conv(x)

        def param(name: str, init: Any) -> Array:
            return self.param(name, init, x.shape[-1:])

        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        scale = param("scale", ones) / jnp.sqrt(param("var", ones) + 1e-3)
        return nn.relu((x - param("mean", zeros)) * scale + param("bias", zeros))


class Block(nn.Module):
    """Branches side by side, their outputs one after the other in the channels."""

    branches: Sequence[Sequence[Conv | Pool | Fork]]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, H, W, C] to [B, h, w, sum of the branches' features]."""
        ends = []
        for branch in self.branches:
            h = x
            for step in branch:
                h = apply(step, h)
            ends.append(h)
        return jnp.concatenate(ends, axis=-1)


def apply(step: Conv | Pool | Fork, x: Array) -> Array:
    """One step of x [B, H, W, C], called within a compact method."""
    if isinstance(step, Conv):
        return ConvNorm(step, name=step.name)(x)
    if isinstance(step, Fork):
        return jnp.concatenate([apply(conv, x) for conv in step], axis=-1)
    window, strides = (3, 3), (step.stride,) * 2
    if step.kind == "max":
        return nn.max_pool(x, window, strides, step.padding)
    return nn.avg_pool(x, window, strides, step.padding, count_include_pad=False)


class Inception(nn.Module):
    """Features and logits of images that have been resized."""

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Maps float32 images [B, 299, 299, 3] in [-1, 1].

        Returns:
            (features [B, 2048], the FID's; logits [B, 1008] without their bias, as the
            Inception score of 2015 takes them).
        """
        for layer in LAYERS:
            if isinstance(layer, (Conv, Pool)):
                x = apply(layer, x)
            else:
                name, branches = layer
                x = Block(branches, name=name)(x)
        features = x.mean(axis=(1, 2))
        logits = nn.Dense(NUM_CLASSES, use_bias=False, name="fc")(features)
        return features, logits


def resize_tensorflow(x: Array) -> Array:
    """As TensorFlow 1 and so the first FIDs: pixel i is taken at i / scale, bilinear.

    Args:
        x: Images [B, H, W, C] in [0, 255].

    Returns:
        float32 [B, 299, 299, C] in [-1, 1]; 255 becomes 127 / 128.
    """
    b, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="edge")
    scale = jnp.array([SIDE / h, SIDE / w])
    x = jax.image.scale_and_translate(
        x.astype(jnp.float32),
        (b, SIDE, SIDE, c),
        (1, 2),
        scale,
        (1 - scale) / 2,
        "linear",
        antialias=False,
    )
    return (x - 128) / 128


def resize_pytorch(x: Array) -> Array:
    """As pytorch-fid: bilinear between centres of pixels, without antialiasing.

    Args:
        x: Images [B, H, W, C] in [0, 255].

    Returns:
        float32 [B, 299, 299, C] in [-1, 1].
    """
    shape = (len(x), SIDE, SIDE, x.shape[-1])
    x = jax.image.resize(x.astype(jnp.float32), shape, "linear", antialias=False)
    return x / 127.5 - 1


def resize_clean(x: Array) -> Array:
    """Bicubic and antialiased, without rounding to grey levels: arXiv:2104.11222.

    Args:
        x: Images [B, H, W, C] in [0, 255].

    Returns:
        float32 [B, 299, 299, C] in [-1, 1]; 255 becomes 127 / 128.
    """
    shape = (len(x), SIDE, SIDE, x.shape[-1])
    x = jax.image.resize(x.astype(jnp.float32), shape, "cubic", antialias=True)
    return (jnp.clip(x, 0, 255) - 128) / 128


RESIZES = {
    "clean": resize_clean,
    "pytorch": resize_pytorch,
    "tensorflow": resize_tensorflow,
}


def from_torch(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Parameters of `Inception` from arrays named as in the PyTorch port.

    Args:
        weights: The state dict, e.g. "Mixed_5b.branch1x1.conv.weight" [O, I, h, w].

    Raises:
        ValueError: If names or shapes are not those of the network.
    """
    image = jnp.zeros((1, SIDE, SIDE, 3))
    shapes = jax.eval_shape(Inception().init, jax.random.key(0), image)["params"]
    norm = dict(scale="weight", bias="bias", mean="running_mean", var="running_var")

    def source(path: tuple[str, ...]) -> str:
        *modules, leaf = path
        if leaf != "kernel":
            modules, leaf = [*modules, "bn"], norm[leaf]
        return ".".join([*modules, "weight" if leaf == "kernel" else leaf])

    def take(path: tuple, shape: jax.ShapeDtypeStruct) -> np.ndarray:
        name = source(tuple(entry.key for entry in path))
        if name not in weights:
            raise ValueError(f"expected weights named {name!r} and found none")
        array = np.asarray(weights[name], np.float32)
        if array.ndim > 1:  # [O, I, ...] to [..., I, O].
            array = np.moveaxis(array, (1, 0), (-2, -1))
        if array.shape != shape.shape:
            raise ValueError(
                f"expected {name} to make {shape.shape}, found {array.shape}"
            )
        return array

    return jax.tree_util.tree_map_with_path(take, shapes)


def load(path: Path) -> dict[str, Any]:
    """Parameters of `Inception` from a .safetensors of the PyTorch port's state dict.

    Raises:
        FileNotFoundError: If there is none, with where to get it.
        ValueError: If it is not of this network, or has weights that are not finite.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"expected the weights of the FID's Inception in {path}. Get {NAME}.pth "
            f"(SHA-256 {PTH_SHA256}) from the releases of github.com/mseitzer/"
            f"pytorch-fid and run: python -m genjax.metrics.inception {NAME}.pth"
        )
    return from_torch(read_safetensors(path))


def convert(path: Path) -> Path:
    """Writes the weights of a .pth beside it as .safetensors, and returns its path.

    Raises:
        ValueError: If it is not the file that everybody has, by its SHA-256.
    """
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != PTH_SHA256:
        raise ValueError(
            f"expected {path} to have the SHA-256 {PTH_SHA256}, found {found}: it is "
            "another network or a broken download"
        )
    import torch
    from safetensors.torch import save_file

    weights = torch.load(path, map_location="cpu", weights_only=True)
    target = path.with_suffix(".safetensors")
    save_file({k: v.float().contiguous() for k, v in weights.items()}, target)
    return target


def main() -> None:
    """The command that converts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help=f"{NAME}.pth")
    try:
        target = convert(parser.parse_args().path)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
