"""Networks by whose features samples and data are compared.

A distance bears the name of its network. Only features of `metrics.inception` make an
FID; a classifier trained on the data themselves makes fd_<data>_cnn.
"""

import functools
import hashlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors import safe_open
from safetensors.numpy import save_file

from genjax import images
from genjax.metrics import inception
from genjax.networks.layers import Conv
from genjax.untrusted import read_safetensors

Params = Mapping[str, Any]


@dataclass(frozen=True)
class FeatureNetwork:
    """A frozen network.

    Attributes:
        name: "inception", or "<data>_cnn".
        hash: Of its weights, see `fingerprint`.
        resize: How images come to its size, a key of `inception.RESIZES`, or "none".
        params: Its weights.
        fn: (params, uint8 images [B, H, W, C]) -> (features [B, D], logits [B, K]).
        accuracy: Of the classifier on examples it was not trained on, if known.
        mesh: Devices to run on, over all processes; by default the first.
    """

    name: str
    hash: str
    resize: str
    params: Params
    fn: Callable[[Params, Array], tuple[Array, Array]]
    accuracy: float | None = None
    mesh: Mesh | None = None

    @property
    def distance(self) -> str:
        """What the Frechet distance between its features is called."""
        return "fid" if self.name == "inception" else f"fd_{self.name}"

    @property
    def kernel_distance(self) -> str:
        """What the kernel distance between its features is called."""
        return "kid" if self.name == "inception" else f"kd_{self.name}"

    @property
    def knows_classes(self) -> bool:
        """Whether its classes are those of the data."""
        return self.name != "inception"

    def __call__(
        self, pixels: np.ndarray, batch_size: int = 256
    ) -> tuple[np.ndarray, np.ndarray]:
        """Runs over images, all in batches of one size, so that it compiles once.

        Each device takes its share of a batch; every process gives the same images,
        and gets all of what is found.

        Args:
            pixels: uint8 [N, H, W, C], of 1 or 3 channels.
            batch_size: Images at once.

        Returns:
            (features float32 [N, D], probabilities of classes float32 [N, K]).

        Raises:
            ValueError: Of other images.
        """
        check_images(pixels)
        mesh = self.mesh or Mesh(jax.local_devices()[:1], "data")
        place = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        size = -(-min(batch_size, len(pixels)) // mesh.size) * mesh.size
        found = []
        for start in range(0, len(pixels), size):
            part = pixels[start : start + size]
            rows = len(part)
            part = np.pad(part, ((0, size - rows), (0, 0), (0, 0), (0, 0)))
            part = jax.make_array_from_callback(part.shape, place, part.__getitem__)
            both = self.compiled(self.params, part)
            found.append([np.asarray(x)[:rows] for x in both])
        features, probabilities = zip(*found, strict=True)
        return np.concatenate(features), np.concatenate(probabilities)

    @functools.cached_property
    def compiled(self) -> Callable[[Params, Array], tuple[Array, Array]]:
        """(params, images) -> (features, probabilities), both on every device."""

        def run(params: Params, pixels: Array) -> tuple[Array, Array]:
            features, logits = self.fn(params, pixels)
            return features, jax.nn.softmax(logits)

        whole = self.mesh and NamedSharding(self.mesh, PartitionSpec())
        return jax.jit(run, out_shardings=whole)


def check_images(pixels: np.ndarray) -> None:
    """Raises ValueError unless they are uint8 [N, H, W, 1 or 3], N at least 1."""
    good = pixels.ndim == 4 and pixels.shape[-1] in (1, 3) and len(pixels)
    if not good or pixels.dtype != np.uint8:
        raise ValueError(
            "expected uint8 images [N, H, W, C] with 1 or 3 channels, got "
            f"{pixels.dtype} {pixels.shape}"
        )


def fingerprint(params: Params) -> str:
    """12 hexadecimal digits of the SHA-256 of names, shapes and float32 values."""
    digest = hashlib.sha256()
    for name, value in sorted(traverse_util.flatten_dict(params, sep=".").items()):
        digest.update(f"{name} {np.shape(value)}".encode())
        digest.update(np.ascontiguousarray(value, np.float32).tobytes())
    return digest.hexdigest()[:12]


def load_inception(path: Path, resize: str = "clean") -> FeatureNetwork:
    """The FID's network from its weights; grey images become three equal channels.

    Args:
        path: See `inception.load`.
        resize: A key of `inception.RESIZES`.

    Raises:
        ValueError: For another resize, or weights of another network.
        FileNotFoundError: With where to get the weights.
    """
    if resize not in inception.RESIZES:
        known = sorted(inception.RESIZES)
        raise ValueError(f"resize must be one of {known}, got {resize!r}")
    params = inception.load(path)

    def fn(params: Params, pixels: Array) -> tuple[Array, Array]:
        x = jnp.broadcast_to(pixels, (*pixels.shape[:-1], 3))
        x = inception.RESIZES[resize](x)
        return inception.Inception().apply({"params": params}, x)

    return FeatureNetwork("inception", fingerprint(params), resize, params, fn)


class Classifier(nn.Module):
    """Convolutions with pooling and a hidden layer, whose values are the features.

    Attributes:
        num_classes: K.
    """

    num_classes: int

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        """Maps images [B, H, W, C] in [-1, 1] to (features [B, 128], logits [B, K])."""
        levels = max(2, math.ceil(math.log2(min(x.shape[1:3]) / 8)))
        for i in range(levels):
            x = nn.relu(Conv(min(32 << i, 128), (5, 5), name=f"conv_{i}")(x))
            x = halve(x)
        h = nn.relu(nn.Dense(128, name="hidden")(x.reshape(len(x), -1)))
        dropped = nn.Dropout(0.3)(h, deterministic=not train)
        return h, nn.Dense(self.num_classes, name="out")(dropped)


def halve(x: Array) -> Array:
    """The maxima of squares of 2 x 2: [B, H, W, C] -> [B, H // 2, W // 2, C].

    XLA has a faster gradient of this than of `nn.max_pool` on CPUs.
    """
    b, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c)
    return x.max(axis=(2, 4))


BATCH, EPOCHS, MIN_STEPS, SEED = 128, 6, 1500, 0
RECIPE = f"adam, 1e-3 to 2e-5, batches of {BATCH}, {EPOCHS} epochs, seed {SEED}"


def train_feature_network(
    name: str,
    train: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray] | None = None,
    *,
    cache: Path | None = None,
) -> FeatureNetwork:
    """A small classifier of labelled images, trained on them or taken from the cache.

    Args:
        name: Of the data, such as "mnist".
        train: "image" uint8 [N, H, W, C] and "label" int [N] from 0.
        test: The same, to find its accuracy.
        cache: A folder of such networks. What is there is found by a hash of the data
            and of how it is trained; None always trains.

    Raises:
        ValueError: If images are not as `check_images` has them, or there are fewer
            than two classes.
    """
    check_images(train["image"])
    num_classes = int(train["label"].max()) + 1
    if num_classes < 2:
        raise ValueError(f"{name} has no classes to tell apart")
    module = Classifier(num_classes)

    def fn(params: Params, pixels: Array) -> tuple[Array, Array]:
        return module.apply({"params": params}, images.to_float(pixels), train=False)

    path = None
    if cache is not None:
        digest = hashlib.sha256(RECIPE.encode())
        for array in (train["image"], train["label"]):
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        path = cache / f"{name}_cnn_{digest.hexdigest()[:12]}.safetensors"
    found = path and _cached(path, module, train["image"][:1])
    params, accuracy = found or (_fit(module, train), None)
    # Machines may round otherwise, and need not share a cache.
    params = multihost_utils.broadcast_one_to_all(params)
    network = FeatureNetwork(
        f"{name}_cnn", fingerprint(params), "none", params, fn, accuracy
    )
    if found:
        return network
    if test is not None:
        predicted = network(test["image"])[1].argmax(axis=1)
        accuracy = float((predicted == test["label"]).mean())
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Containers on several machines often have one process id.
        partial = path.with_suffix(f".{jax.process_index()}.{os.getpid()}.partial")
        metadata = {} if accuracy is None else {"accuracy": str(accuracy)}
        save_file(traverse_util.flatten_dict(params, sep="."), partial, metadata)
        partial.replace(path)
    return replace(network, accuracy=accuracy)


def _cached(
    path: Path, module: Classifier, first: np.ndarray
) -> tuple[Params, float | None] | None:
    """Weights and accuracy from the cache, or None if they are not of the network."""
    try:
        flat = read_safetensors(path)
        with safe_open(path, "numpy") as file:
            accuracy = (file.metadata() or {}).get("accuracy")
        accuracy = None if accuracy is None else float(accuracy)
    except (FileNotFoundError, ValueError):
        return None
    key, pixels = jax.random.key(SEED), images.to_float(jnp.asarray(first))
    init = functools.partial(module.init, train=False)
    expected = jax.eval_shape(init, key, pixels)["params"]
    expected = traverse_util.flatten_dict(expected, sep=".")
    shapes = [{k: v.shape for k, v in x.items()} for x in (flat, expected)]
    if shapes[0] != shapes[1]:
        return None
    return traverse_util.unflatten_dict(flat, sep="."), accuracy


def _fit(module: Classifier, train: Mapping[str, np.ndarray]) -> Params:
    """Trained weights, as NumPy arrays."""
    pixels, label = train["image"], train["label"]
    num_steps = max(MIN_STEPS, EPOCHS * len(pixels) // BATCH)
    tx = optax.adam(optax.linear_schedule(1e-3, 2e-5, num_steps))
    first = images.to_float(jnp.asarray(pixels[:1]))
    params = module.init(jax.random.key(SEED), first, train=False)["params"]

    @jax.jit
    def step(params, opt_state, pixels, label, key):
        def loss(params):
            x = images.to_float(pixels)
            _, logits = module.apply(
                {"params": params}, x, train=True, rngs={"dropout": key}
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
            return losses.mean()

        updates, opt_state = tx.update(jax.grad(loss)(params), opt_state)
        return optax.apply_updates(params, updates), opt_state

    opt_state, random = tx.init(params), np.random.RandomState(SEED)
    for key in jax.random.split(jax.random.key(SEED + 1), num_steps):
        rows = random.randint(len(pixels), size=BATCH)
        params, opt_state = step(params, opt_state, pixels[rows], label[rows], key)
    return jax.device_get(params)
