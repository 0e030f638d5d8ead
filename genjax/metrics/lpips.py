"""LPIPS, version 0.1: a distance of images that was fitted to what people see.

Squared differences of the features of AlexNet ("alex", the one to report) or VGG-16
("vgg", the one to train with) at five layers, weighted by the authors' linear layers.
The weights are not ours to ship. Those of the backbones are torchvision's, from
https://download.pytorch.org/models/, where a name holds the start of the SHA-256:

    alexnet-owt-7be5be79.pth, 244,408,911 bytes
    vgg16-397923af.pth, 553,433,881 bytes

Those of the linear layers are in the package lpips of PyPI (pip download --no-deps
lpips; a .whl is a zip), under lpips/weights/v0.1:

    alex.pth, 6,009 bytes, of SHA-256
    df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0
    vgg.pth, 7,289 bytes, of SHA-256
    a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868

The package torchmetrics has the same files, under functional/image/lpips_models. This
joins and converts a pair, with torch (the extra "bench"), and writes
lpips_alex.safetensors or what --out names:

    python -m genjax.metrics.lpips alexnet-owt-7be5be79.pth alex.pth --net=alex

References:
    Zhang et al., arXiv:1801.03924, Eq. 1; github.com/richzhang/PerceptualSimilarity.
    Krizhevsky, arXiv:1404.5997 (the AlexNet of torchvision).
    Simonyan & Zisserman, arXiv:1409.1556, configuration D.
"""

import argparse
import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import Array
from safetensors import SafetensorError

from genjax.untrusted import read_safetensors

FILES = {
    "alex": ("alexnet-owt-7be5be79.pth", "alex.pth"),
    "vgg": ("vgg16-397923af.pth", "vgg.pth"),
}
SHA256 = {  # Of the backbones as several projects quote them.
    "alexnet-owt-7be5be79.pth": (
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02"
    ),
    "vgg16-397923af.pth": (
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"
    ),
    "alex.pth": "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    "vgg.pth": "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
}
MIN_SIDE = {"alex": 31, "vgg": 16}  # One pixel is left at the last layer.
# Mean and standard deviation of ImageNet, of values in [-1, 1].
SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
SCALE = np.array([0.458, 0.448, 0.450], np.float32)


class AlexNet(nn.Module):
    """Up to the fifth convolution; layers are named by their places in torchvision."""

    @nn.compact
    def __call__(self, x: Array) -> list[Array]:
        """Maps [B, H, W, 3] to relu1, ..., relu5, each [B, h, w, C]."""
        relu1 = nn.relu(nn.Conv(64, (11, 11), strides=4, padding=2, name="0")(x))
        x = nn.max_pool(relu1, (3, 3), (2, 2))
        relu2 = nn.relu(nn.Conv(192, (5, 5), name="3")(x))
        x = nn.max_pool(relu2, (3, 3), (2, 2))
        relu3 = nn.relu(nn.Conv(384, (3, 3), name="6")(x))
        relu4 = nn.relu(nn.Conv(256, (3, 3), name="8")(relu3))
        relu5 = nn.relu(nn.Conv(256, (3, 3), name="10")(relu4))
        return [relu1, relu2, relu3, relu4, relu5]


class VGG16(nn.Module):
    """Up to the last convolution; layers are named by their places in torchvision."""

    @nn.compact
    def __call__(self, x: Array) -> list[Array]:
        """Maps [B, H, W, 3] to relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3."""
        taps, place = [], 0
        for features, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            if taps:
                x = nn.max_pool(x, (2, 2), (2, 2))
                place += 1
            for _ in range(depth):
                x = nn.relu(nn.Conv(features, (3, 3), name=str(place))(x))
                place += 2
            taps.append(x)
        return taps


BACKBONES = {"alex": AlexNet, "vgg": VGG16}


class LPIPS(nn.Module):
    """The distance of Eq. 1; before weights are loaded, w = 1 in all its channels.

    Attributes:
        net: "alex" or "vgg".
    """

    net: str

    @nn.compact
    def __call__(self, x: Array, y: Array) -> Array:
        """Maps float images [B, H, W, 1 or 3] in [-1, 1], twice, to [B]."""
        backbone = BACKBONES[self.net](name="features")
        # SHIFT has three channels and so repeats a single one.
        taps = [backbone((image - SHIFT) / SCALE) for image in (x, y)]
        total = 0
        for i, (a, b) in enumerate(zip(*taps, strict=True)):
            squares = jnp.square(unit(a) - unit(b))
            ones = nn.initializers.ones
            lin = nn.Conv(1, (1, 1), use_bias=False, kernel_init=ones, name=f"lin{i}")
            total += lin(squares).mean(axis=(1, 2, 3))
        return total


def unit(x: Array) -> Array:
    """x / (|x| + 1e-10), norms over the last axis, as in the authors' code."""
    squares = jnp.square(x).sum(axis=-1, keepdims=True)
    # sqrt has an infinite gradient at 0, where all features of a pixel can be off.
    norm = jnp.sqrt(jnp.where(squares > 0, squares, 1))
    return x / (norm + 1e-10)


def distance(params: Mapping[str, Any], x: Array, y: Array, net: str = "alex") -> Array:
    """LPIPS between paired images, which is also a loss.

    sum_l mean_hw sum_c w_lc (f_l(x) - f_l(y))^2, with f_l the features of layer l,
    of unit length over the channels at each pixel, and w >= 0 the square of Eq. 1's.

    Args:
        params: Of `load`.
        x: Images, float [B, H, W, C] in [-1, 1]; a single channel is repeated.
        y: As x.
        net: What params are of, "alex" or "vgg".

    Returns:
        float [B], 0 or more; 0 where x = y, up to rounding.

    Raises:
        ValueError: For another net, or images of other shapes or types, or too small.
    """
    _check_net(net)
    x, y = jnp.asarray(x), jnp.asarray(y)
    if x.shape != y.shape or x.ndim != 4 or x.shape[-1] not in (1, 3):
        raise ValueError(
            "expected two arrays of images, both [B, H, W, C] with 1 or 3 channels, "
            f"got {x.shape} and {y.shape}"
        )
    for array in (x, y):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"expected float images in [-1, 1], got {array.dtype}")
    least = MIN_SIDE[net]
    if min(x.shape[1:3]) < least:
        raise ValueError(
            f"LPIPS of {net!r} needs images of at least {least}x{least}, got "
            f"{x.shape[1]}x{x.shape[2]}: resize them"
        )
    return LPIPS(net).apply({"params": params}, x, y)


def from_torch(weights: Mapping[str, np.ndarray], net: str = "alex") -> dict[str, Any]:
    """Parameters of `LPIPS` from arrays named as in torchvision and lpips.

    Args:
        weights: Such as "features.0.weight" [O, I, h, w], "features.0.bias" [O] and
            "lin0.model.1.weight" [1, I, 1, 1]. Others are left out.
        net: "alex" or "vgg".

    Raises:
        ValueError: If names or shapes are not those of the network.
    """
    params = {}
    for name, (path, shape) in _layout(net).items():
        if name not in weights:
            raise ValueError(
                f"expected weights of {net!r} and found none named {name!r}"
            )
        array = np.asarray(weights[name], np.float32)
        if array.ndim == 4:  # [O, I, h, w] to [h, w, I, O].
            array = array.transpose(2, 3, 1, 0)
        if array.shape != shape:
            raise ValueError(
                f"expected weights of {net!r}, of which {name} makes {shape}, found "
                f"{array.shape}"
            )
        params[path] = array
    return traverse_util.unflatten_dict(params)


def load(path: Path, net: str = "alex") -> dict[str, Any]:
    """Parameters of `LPIPS` from what `convert` has written.

    Raises:
        FileNotFoundError: If there is none, with where to get it.
        ValueError: If it is not of this network, or has weights that are not finite.
    """
    _check_net(net)
    if not path.is_file():
        backbone, linear = FILES[net]
        raise FileNotFoundError(
            f"expected the weights of LPIPS in {path}. Get {backbone} (SHA-256 "
            f"{SHA256[backbone]}) from https://download.pytorch.org/models/{backbone} "
            f"and lpips/weights/v0.1/{linear} (SHA-256 {SHA256[linear]}) from the "
            "package lpips of PyPI, and run: python -m genjax.metrics.lpips "
            f"{backbone} {linear} --net={net} --out={path}. Without them there are the "
            'feature distances of features="cnn"'
        )
    weights = read_safetensors(path)
    try:
        return from_torch(weights, net)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def convert(backbone: Path, linear: Path, net: str, out: Path) -> None:
    """Writes the weights of two .pth as one .safetensors, without the classifier.

    Args:
        backbone: torchvision's, see `FILES`.
        linear: The authors'.
        net: "alex" or "vgg".
        out: Where to write.

    Raises:
        ValueError: If they are not the files that everybody has, by their SHA-256.
    """
    _check_net(net)
    for path, name in zip((backbone, linear), FILES[net], strict=True):
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != SHA256[name]:
            raise ValueError(
                f"expected {path} to be {name} with the SHA-256 {SHA256[name]}, found "
                f"{found}: it is another network or a broken download"
            )
    import torch
    from safetensors.torch import save_file

    weights = {}
    for path in (backbone, linear):
        weights |= torch.load(path, map_location="cpu", weights_only=True)
    save_file({k: weights[k].float().contiguous() for k in _layout(net)}, out)


def _check_net(net: str) -> None:
    if net not in FILES:
        raise ValueError(f"net must be one of {sorted(FILES)}, got {net!r}")


def _layout(net: str) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Path and shape in the parameters, by the name in the files."""
    _check_net(net)
    image = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(LPIPS(net).init, jax.random.key(0), image, image)
    layout = {}
    for path, leaf in traverse_util.flatten_dict(shapes["params"]).items():
        *modules, last = path
        if modules[0] != "features":
            modules = [*modules, "model", "1"]
        name = ".".join([*modules, "weight" if last == "kernel" else last])
        layout[name] = path, leaf.shape
    return layout


def main() -> None:
    """The command that converts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("backbone", type=Path, help="torchvision's .pth")
    parser.add_argument("linear", type=Path, help="the authors' .pth")
    parser.add_argument("--net", choices=sorted(FILES), default="alex")
    parser.add_argument("--out", type=Path, help="by default lpips_<net>.safetensors")
    args = parser.parse_args()
    out = args.out or Path(f"lpips_{args.net}.safetensors")
    try:
        convert(args.backbone, args.linear, args.net, out)
    except (ImportError, OSError, SafetensorError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
