"""The quality of samples by features, against statistics of real images that are kept.

Networks and statistics are made once and lie in the user's cache folder, found by
hashes of all that they depend on. GENJAX_CACHE_DIR moves it.
"""

import contextlib
import dataclasses
import functools
import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import platformdirs
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from genjax import data, images
from genjax.config import ConfigError, choose
from genjax.metrics import features, inception, lpips
from genjax.metrics.classes import class_coverage, inception_score
from genjax.metrics.features import FeatureNetwork
from genjax.metrics.frechet import distance_of_moments, frechet_infinity
from genjax.metrics.kernel import kernel_distance
from genjax.metrics.moments import Moments, merge, moments
from genjax.metrics.neighbours import prdc
from genjax.metrics.pairs import feature_l1, feature_l2
from genjax.train.writers import say
from genjax.untrusted import not_finite, read_npz

NETWORKS = ("cnn", "inception")
KEPT = 10_000  # Examples whose features are kept, for measures by neighbours.
CHUNK = 1000  # Images in memory at once.
MIN_SAMPLES = 2048  # Of fewer, the distance is in good part the bias of small samples.
LPIPS_SIDE, LPIPS_BATCH = 64, 50  # Least side of images, the patches' it was fitted to.
TRAINED_ON = 60_000  # Examples, evenly spaced, that a classifier is trained on at most.


def cache_dir() -> Path:
    """Where networks and statistics lie."""
    return Path(
        os.environ.get("GENJAX_CACHE_DIR", platformdirs.user_cache_dir("genjax"))
    )


@dataclass(frozen=True)
class Reference:
    """What is kept of the features of real images.

    Attributes:
        moments: Of all of them.
        features: Of the first `KEPT`, float32 [M, D].
        labels: Of the same, int [M]; None without classes.
        hash: Of the network, its resizing and the images.
    """

    moments: Moments
    features: np.ndarray
    labels: np.ndarray | None
    hash: str


def make_network(
    name: str,
    dataset: data.Dataset,
    data_name: str,
    *,
    mesh: Mesh | None = None,
    weights: str = "",
    resize: str = "clean",
) -> FeatureNetwork:
    """The network that a command or a config asks for, trained if it must be.

    Args:
        name: Of `NETWORKS`: "cnn", a classifier of the data set itself, or "inception".
        dataset: Images, for "cnn" with labels.
        data_name: config.data.name.
        mesh: Devices that it runs on; by default the first.
        weights: Of "inception": a .safetensors; by default that in the cache folder.
        resize: Of "inception": a key of `inception.RESIZES`.

    Raises:
        ConfigError: If the data do not fit, or weights are missing: with what to do.
    """
    choose(dict.fromkeys(NETWORKS), name, "features")
    if dataset.entry != "image" or dataset.shape[-1] not in (1, 3):
        raise ConfigError(
            f"features={name!r} needs images of 1 or 3 channels, but {data_name} has "
            f"{dataset.entry}s of shape {tuple(dataset.shape)}"
        )
    if name == "inception":
        path = Path(weights or cache_dir() / f"{inception.NAME}.safetensors")
        choose(inception.RESIZES, resize, "resize")
        try:
            network = features.load_inception(path, resize)
        except FileNotFoundError as error:
            raise ConfigError(f"{error}. Without it there is features='cnn'.") from None
        except ValueError as error:
            raise ConfigError(str(error)) from None
        return dataclasses.replace(network, mesh=mesh)
    if dataset.num_classes is None:
        raise ConfigError(
            f"features='cnn' needs labelled data, and {data_name} has no classes: "
            "take features='inception'"
        )
    short = re.sub(r"\W+", "_", re.split("[:/]", data_name.rstrip("/"))[-1])
    train, test = (
        split and data.gather(split, spaced(len(split), TRAINED_ON))
        for split in (dataset.train, dataset.test)
    )
    network = features.train_feature_network(short, train, test, cache=cache_dir())
    return dataclasses.replace(network, mesh=mesh)


def make_lpips(net: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """LPIPS of paired images, uint8 [N, H, W, C] twice -> [N], by weights in the cache.

    Images with a side below `LPIPS_SIDE` are enlarged to it, bilinearly.

    Args:
        net: "alex" or "vgg".

    Raises:
        ConfigError: If the weights are missing, with where to get them, or others.
    """
    try:
        params = lpips.load(cache_dir() / f"lpips_{net}.safetensors", net)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(str(error)) from None

    @jax.jit
    def distance(x: Array, y: Array) -> Array:
        h, w = (max(side, LPIPS_SIDE) for side in x.shape[1:3])
        x, y = (
            jax.image.resize(images.to_float(z), (len(z), h, w, z.shape[-1]), "linear")
            for z in (x, y)
        )
        return lpips.distance(params, x, y, net)

    def in_chunks(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        parts = [slice(i, i + LPIPS_BATCH) for i in range(0, len(x), LPIPS_BATCH)]
        return np.concatenate([distance(x[part], y[part]) for part in parts])

    return in_chunks


def spaced(length: int, num: int) -> np.ndarray:
    """At most `num` places of `length`, evenly spaced from the first to the last."""
    return np.linspace(0, length - 1, min(length, num)).astype(int)


def digest(source: data.Examples) -> str:
    """12 digits of a hash of a split: its length and 256 of its images and labels."""
    found = hashlib.sha256(str(len(source)).encode())
    examples = data.gather(source, spaced(len(source), 256))
    for name, column in sorted(examples.items()):
        found.update(f"{name} {column.dtype} {column.shape}".encode())
        found.update(np.ascontiguousarray(column).tobytes())
    return found.hexdigest()[:12]


def load_reference(
    network: FeatureNetwork, source: data.Examples, cache: Path | None = None
) -> Reference:
    """The statistics of a split's features, computed once.

    Args:
        network: Of the features.
        source: Images.
        cache: By default `cache_dir`.
    """
    parts = network.name, network.hash, network.resize, digest(source), KEPT
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
    path = (cache or cache_dir()) / f"{network.name}_reference_{key}.npz"
    found = _cached(path, key)
    # All processes take part in finding them, or none does.
    if multihost_utils.process_allgather(np.array(found is not None)).all():
        return found
    found, rows, labels = [], [], []
    for start in range(0, len(source), CHUNK):
        batch = data.gather(source, np.arange(start, min(start + CHUNK, len(source))))
        x, _ = network(batch["image"])
        found.append(moments(x))
        if start < KEPT:
            rows.append(x[: KEPT - start])
            labels.append(batch.get("label", ())[: KEPT - start])
    whole = merge(found)
    arrays = {"features": np.concatenate(rows)}
    if "label" in batch:
        arrays["labels"] = np.concatenate(labels)
    partial = path.with_suffix(f".{jax.process_index()}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            np.savez(file, **dataclasses.asdict(whole), **arrays)
        partial.replace(path)
    except OSError as error:  # They are in memory, and training may go on.
        say(f"warning: statistics of the data cannot be kept: {error}")
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return Reference(whole, arrays["features"], arrays.get("labels"), key)


def _cached(path: Path, key: str) -> Reference | None:
    """What lies there, or None if it cannot be read or does not fit together."""
    try:
        file = read_npz(path)
        count, rows = int(file["count"]), file["features"]
        kept = Moments(count, file["mean"], file["scatter"])
        labels = file.get("labels")
        (dims,) = kept.mean.shape
        shapes = kept.scatter.shape, rows.shape, np.shape(labels)
        some = min(count, KEPT)
        expected = (dims, dims), (some, dims), () if labels is None else (some,)
        if shapes != expected or not_finite(file):
            return None
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None
    return Reference(kept, rows, labels, key)


def from_config(
    config: ConfigDict, dataset: data.Dataset, mesh: Mesh
) -> "Quality | None":
    """What judges samples in training, by config.eval_features; None without.

    Raises:
        ConfigError: See `make_network`; also for features without samples.
    """
    name = config.eval_features
    if not name:
        return None
    if not (config.eval_every and config.eval_samples):
        raise ConfigError(
            f"config.eval_features={name!r} needs config.eval_every and "
            f"config.eval_samples, got {config.eval_every} and {config.eval_samples}"
        )
    return Quality(make_network(name, dataset, config.data.name, mesh=mesh), dataset)


@contextlib.contextmanager
def measuring() -> Iterator[None]:
    """Turns what a measure refuses into a ConfigError."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"the samples cannot be measured: {error}") from error


@dataclass(frozen=True)
class Quality:
    """Measures samples of a data set by a network's features.

    Attributes:
        network: Of the features.
        dataset: The real images.
        split: "train" or "test": what samples are compared with.
    """

    network: FeatureNetwork
    dataset: data.Dataset
    split: str = "train"

    @property
    def source(self) -> data.Examples:
        """The split.

        Raises:
            ConfigError: If the data has none.
        """
        source = getattr(self.dataset, self.split)
        if source is None:
            raise ConfigError(f"the data has no {self.split} split to compare with")
        return source

    @property
    def count(self) -> int:
        """Real images to compare with."""
        return len(self.source)

    @functools.cached_property
    def reference(self) -> Reference:
        """Of the split.

        Raises:
            ConfigError: If its features are not finite.
        """
        with measuring():
            return load_reference(self.network, self.source)

    def check(self, samples: np.ndarray) -> None:
        """Raises ConfigError unless the samples can be compared with the data."""
        try:
            features.check_images(samples)
        except ValueError as error:
            raise ConfigError(f"the samples cannot be compared: {error}") from None
        for num, what in ((len(samples), "samples"), (self.count, "real images")):
            if num < 2:
                raise ConfigError(
                    f"a distance needs two {what} at least, got {num}: one says "
                    "nothing of a spread"
                )
        if samples.shape[1:] != tuple(self.dataset.shape):
            raise ConfigError(
                f"samples of shape {samples.shape[1:]} cannot be compared with images "
                f"of shape {tuple(self.dataset.shape)}"
            )

    def distance(self, samples: np.ndarray) -> float:
        """The Frechet distance alone, of uint8 [N, H, W, C]."""
        self.check(samples)
        with measuring():
            found = moments(self.network(samples)[0])
            return distance_of_moments(found, self.reference.moments)

    def measure(
        self, samples: np.ndarray, labels: np.ndarray | None = None
    ) -> dict[str, dict[str, float]]:
        """All that can be said of samples, uint8 [N, H, W, C]: results by name.

        Distances bear the network's name. Precision, recall, density and coverage are
        by five neighbours, of at most `KEPT` samples and real images. With labels, int
        [N] that the samples were drawn for, also the distance within each class, from
        the first `KEPT` real images.

        Raises:
            ConfigError: If they cannot be compared, see `check`, there is another
                number of labels, or features are not finite.
        """
        self.check(samples)
        if labels is not None and len(labels) != len(samples):
            raise ConfigError(
                f"expected a label for each of {len(samples)} samples, got "
                f"{len(labels)}"
            )
        with measuring():
            return self._measure(samples, labels)

    def _measure(
        self, samples: np.ndarray, labels: np.ndarray | None
    ) -> dict[str, dict[str, float]]:
        """`measure` of what is checked."""
        x, probabilities = self.network(samples)
        real, n = self.reference, len(x)
        name = self.network.distance
        values = {name: distance_of_moments(moments(x), real.moments)}
        sizes = sorted({math.ceil(n * share) for share in np.linspace(0.1, 1, 15)})
        if sizes[0] >= 2:
            values[f"{name}_infinity"] = frechet_infinity(x, real.moments, sizes)
        size = min(1000, n, len(real.features))
        kernel = kernel_distance(x, real.features, subset_size=size)
        some = min(n, KEPT, len(real.features))
        if some > 5:
            values |= prdc(real.features[:some], x[:some])._asdict()
        if not self.network.knows_classes:
            values["inception_score"] = inception_score(probabilities, min(10, n)).mean
        elif real.labels is not None:
            coverage = class_coverage(probabilities.argmax(axis=1), real.labels)
            values |= {"class_kl": coverage.kl, "missing_classes": coverage.missing}
        results = {k: {"value": float(v), "examples": n} for k, v in values.items()}
        results[self.network.kernel_distance] = {
            "value": kernel.value,
            "variance": kernel.variance,
            "examples": n,
        }
        if labels is not None and real.labels is not None:
            results |= self.by_class(x, labels)
        return {f"samples/{k}": entry for k, entry in results.items()}

    def by_class(
        self, x: np.ndarray, labels: np.ndarray
    ) -> dict[str, dict[str, float]]:
        """The distance within each class of two samples or more, and their mean.

        Args:
            x: Features of samples, [N, D].
            labels: Theirs, int [N].
        """
        real, found = self.reference, {}
        for c in np.unique(labels):
            ours, theirs = x[labels == c], real.features[real.labels == c]
            if min(len(ours), len(theirs)) > 1:
                value = distance_of_moments(moments(ours), moments(theirs))
                found[f"class_{c}"] = {"value": value, "examples": len(ours)}
        values = [entry["value"] for entry in found.values()]
        if values:
            total = sum(entry["examples"] for entry in found.values())
            found["classes"] = {"value": float(np.mean(values)), "examples": total}
        return {f"{self.network.distance}_{k}": entry for k, entry in found.items()}

    def pairs(self, real: np.ndarray, made: np.ndarray) -> dict[str, np.ndarray]:
        """L1 and L2 distances of the features of paired images, float [N] by name."""
        x, y = (self.network(pixels)[0] for pixels in (real, made))
        short = self.network.name
        return {f"l1_{short}": feature_l1(x, y), f"l2_{short}": feature_l2(x, y)}

    def protocol(self, num: int) -> dict[str, Any]:
        """How `num` samples are compared, with warnings if that is doubtful."""
        doubts, moments = [], self.reference.moments
        dims, least = len(moments.mean), min(num, moments.count)
        for count, what in ((num, "samples"), (moments.count, "real images")):
            if num and count < MIN_SAMPLES and (what == "samples" or count <= dims):
                doubts.append(
                    f"{count} {what} are fewer than {MIN_SAMPLES}: distances are too "
                    "large"
                )
            if num and count <= dims:
                doubts.append(
                    f"the covariance of {count} {what} in {dims} dimensions is singular"
                )
        if 0 < least <= 5:
            doubts.append(f"precision and recall need more than 5 images, got {least}")
        return {
            "network": self.network.name,
            "network_hash": self.network.hash,
            "network_accuracy": self.network.accuracy,
            "resize": self.network.resize,
            "reference_split": self.split,
            "reference_num": self.reference.moments.count,
            "reference_hash": self.reference.hash,
            "warnings": doubts,
        }
