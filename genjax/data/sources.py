"""Sources of examples: random access to dicts of numpy arrays, by the name in a config.

digits            scikit-learn's 1,797 real 8x8 handwritten digits; needs no download.
tfds:<name>       A data set prepared by TFDS as array_record; read without TensorFlow.
folder:<path>     A folder of image files, with a sub-folder for each class or without.
synthetic:<name>  ring, grid, moons, checkerboard, rings or blobs, of known density.

An example has `image` uint8 [H, W, C] with C = 1 or 3 (or `point` float32 [2]) and,
where the data has classes, `label` int32. Alpha is laid over white. Sets of up to a
gibibyte of pixels are decoded once, when first used, and kept in memory. Of a larger
one an example that cannot be read any more gives way to another (`OnDemand`).
"""

import contextlib
import io
import itertools
import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from genjax.config import ConfigError, nearest
from genjax.data import synthetic
from genjax.untrusted import read_json

if TYPE_CHECKING:
    from PIL import Image

TFDS_FEATURES = "tensorflow_datasets.core.features."
IN_MEMORY_BYTES = 2**30  # Of decoded pixels in a split; a larger one is read as needed.
# What is decoded, whatever a file's name says. Pillow knows more, some of which start
# other programs: PostScript runs Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_TRIES = 100  # Examples that may be unreadable one after the other.
PATIENCE = 30.0  # Seconds that storage may be away before the run ends.
MAX_CLASSES = 10**6
MAX_NAMED = 20  # Unreadable examples that are named; more are only counted.

Example = dict[str, np.ndarray]


class DataError(ConfigError):
    """Data that could be read when the run started, and cannot be any more."""


class Examples(Protocol):
    """A random-access sequence of examples: what `pipeline.batches` reads from."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def origin(self, index: int) -> str:
        """Where the example comes from, in words, to name it in a message."""
        ...


@dataclass(frozen=True)
class Dataset:
    """What `load` found.

    Attributes:
        train: The examples to train on.
        test: Examples that are never trained on; None where the data has none.
        shape: Shape of one image or point.
        num_classes: Number of classes K, with labels in [0, K); None without labels.
        class_names: Their names, where known.
        entry: Name of the batch entry that is modelled, "image" or "point".
        density: The exact density of synthetic data, with `log_prob`.
    """

    train: Examples
    test: Examples | None
    shape: tuple[int, ...]
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    entry: str = "image"
    density: Any = None


def load(data: Mapping[str, Any]) -> Dataset:
    """Opens the data that `config.data` names, decoding no more than it must.

    Args:
        data: `name`, and where they apply `data_dir` (None is TFDS_DATA_DIR, or else
            TFDS's own default), `image_size` (None, an int or (H, W): images are
            resized to cover it and cropped at the centre), `on_bad_file` ("skip" or
            "fail") and `test_fraction`.

    Raises:
        ConfigError: If the name is unknown or the data is missing or does not fit; the
            message says what was expected, what was found and how to get the data.
    """
    kind, _, rest = data["name"].partition(":")
    if kind == "digits" and not rest:
        return _load_digits(_size(data))
    if kind == "synthetic":
        return _load_synthetic(rest, _size(data))
    if kind == "tfds" and rest:
        return _load_tfds(rest, data.get("data_dir"), _size(data))
    if kind == "folder" and rest:
        from genjax.data.folder import load_folder

        return load_folder(
            rest,
            size=_size(data),
            on_bad_file=data.get("on_bad_file", "skip"),
            test_fraction=data.get("test_fraction", 0.1),
        )
    raise ConfigError(
        "config.data.name must be digits, tfds:<name>, folder:<path> or "
        f"synthetic:<name>, got {data['name']!r}"
        f"{nearest(kind, ['digits', 'tfds:', 'folder:', 'synthetic:'])}"
    )


class InMemory:
    """Examples held as one array for each entry, made when first needed."""

    def __init__(self, name: str, length: int, make: Callable[[], dict[str, Any]]):
        self._name, self._length, self._make = name, length, make
        self._lock = threading.Lock()
        self._columns: dict[str, np.ndarray] | None = None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        return {name: column[index] for name, column in self.columns.items()}

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Every example at once: {entry: array [N, ...]}."""
        with self._lock:
            if self._columns is None:
                self._columns = self._make()
                self._make = None  # What it closes over may be large.
            return self._columns

    def origin(self, index: int) -> str:
        """The set's name and the position in it."""
        return f"{self._name}[{index}]"


class OnDemand:
    """Examples that are read and decoded each time they are asked for.

    One that cannot be read, because its file broke or vanished in mid-training, gives
    way to another: to the first that can be read of (index + k stride) mod N, k = 1, 2,
    ..., whose stride is near 0.618 N and has no factor in common with N. This depends
    on nothing but the index, so that all processes and a resumed run do the same, and
    is spread over the whole set, so that a lost class does not double its neighbour.
    Each is named in a warning once, and `skipped` counts how often it happened.

    Attributes:
        skipped: How many examples have been replaced since this was made.
    """

    def __init__(
        self,
        name: str,
        length: int,
        read: Callable[[int], Example],
        *,
        max_tries: int = MAX_TRIES,
    ):
        """Takes `read`, which raises whatever it likes of what cannot be read.

        Args:
            name: Of the set, for messages.
            length: N.
            read: Makes the example at a position in [0, N).
            max_tries: Examples that are tried for one; 1 replaces none.
        """
        self._name, self._length, self._read = name, length, read
        self._tries = min(max_tries, length)
        self._stride = next(
            s for s in itertools.count(round(0.618 * length)) if math.gcd(s, length) < 2
        )
        self.skipped = 0
        self._lock = threading.Lock()
        self._named: set[int] = set()
        self._stand_ins: dict[int, int] = {}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        """The example, or what stands in for it.

        Raises:
            DataError: If none can be read, for half a minute.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            failed: dict[int, Exception] = {}
            for k in range(self._tries):
                position = (index + k * self._stride) % self._length
                try:
                    example = self._read(position)
                except Exception as error:  # Decoders raise errors of many kinds.
                    failed[position] = error
                else:
                    self._note(index, position, failed)
                    return example
            if time.monotonic() > deadline:
                break
            time.sleep(0.5)  # A network's storage may come back.
        position, error = next(iter(failed.items()))
        raise DataError(
            f"{self.title(position)} cannot be read any more ({_in_words(error)})"
            + (f", nor can {len(failed) - 1} others" if len(failed) > 1 else "")
            + ": is the storage still there, and the data as it was? The same command "
            "goes on once it can be read"
        ) from error

    def _note(self, index: int, position: int, failed: dict[int, Exception]) -> None:
        """Counts and names what was replaced, or drops what can be read again."""
        if not failed and index not in self._stand_ins:
            return
        with self._lock:
            if not failed:
                self._stand_ins.pop(index, None)
                return
            self.skipped += 1
            self._stand_ins[index] = position
            new = [p for p in failed if p not in self._named]
            new = new[: MAX_NAMED - len(self._named)]
            self._named.update(new)
            last = new and len(self._named) == MAX_NAMED
        for p in new:
            warnings.warn(
                f"{self.title(p)} cannot be read any more ({_in_words(failed[p])}); "
                "other examples stand in for it",
                stacklevel=3,
            )
        if last:
            warnings.warn(
                f"{self._name}: more examples that cannot be read are only counted",
                stacklevel=3,
            )

    def title(self, position: int) -> str:
        """The set's name and the position in it."""
        return f"{self._name}[{position}]"

    def origin(self, index: int) -> str:
        """Where the example comes from, and from where what now stands in for it."""
        by = self._stand_ins.get(index)
        instead = "" if by is None else f" (unreadable; for it {self.title(by)})"
        return self.title(index) + instead


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def flatten(image: "Image.Image") -> "Image.Image":
    """Turns a Pillow image of any mode to opaque 8-bit grey ("L") or colour ("RGB").

    Alpha is laid over white. 16-bit grey is divided by 257 and rounded, so that white
    stays white. Of 16-bit colour Pillow itself keeps the upper 8 bits.

    Raises:
        ValueError: If the range of the pixels is unknown (32-bit and float modes).
    """
    from PIL import Image

    transparent = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
    if image.mode in ("L", "RGB") and not transparent:
        return image
    if image.mode.startswith("I"):
        # Pillow opens 16-bit PNG and PGM files as "I" or "I;16", depending on version.
        if image.mode == "I" and image.format not in ("PNG", "PPM"):
            raise ValueError("32-bit integer pixels have no known range")
        levels = np.asarray(image).astype(np.uint32)
        levels += 128  # To round: 257 is odd, so that no level is halfway.
        levels //= 257
        return Image.fromarray(levels.astype(np.uint8))
    if image.mode == "F":
        raise ValueError("float pixels have no known range")
    if transparent:
        white = Image.new("RGBA", image.size, "white")
        flat = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    else:
        flat = image.convert("RGB")
    # A palette may hold greys alone.
    grey = image.mode in ("1", "L", "LA") or (
        image.mode in ("P", "PA") and not np.ptp(np.asarray(flat), axis=-1).any()
    )
    return flat.convert("L") if grey else flat


def to_array(
    image: "Image.Image", size: tuple[int, int] | None, mode: str | None = None
) -> np.ndarray:
    """Resizes a flat image to cover `size`, crops the centre: uint8 [H, W, 1 or 3].

    Args:
        image: A Pillow image of mode "L" or "RGB".
        size: (H, W), or None to leave it as it is. Smaller images are enlarged.
        mode: "L" or "RGB" to convert to; None keeps the image's own.
    """
    from PIL import Image, ImageOps

    if mode is not None and image.mode != mode:
        image = image.convert(mode)
    if size is not None and image.size != size[::-1]:
        image = ImageOps.fit(image, size[::-1], Image.Resampling.LANCZOS)
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array


def tfds_root(data_dir: str | None) -> str:
    """The folder of TFDS's data: `data_dir`, or TFDS_DATA_DIR, or TFDS's default."""
    root = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return os.path.expanduser(root)


def _size(data: Mapping[str, Any]) -> tuple[int, int] | None:
    size = data.get("image_size")
    # The command line gives "None" and "64" as tuples of one.
    size = size[0] if isinstance(size, tuple) and len(size) == 1 else size
    if size is None:
        return None
    size = (size, size) if isinstance(size, int) else tuple(size)
    if len(size) != 2 or not all(isinstance(s, int) and s > 0 for s in size):
        raise ConfigError(
            f"config.data.image_size must be (H, W) or one number, positive, got {size}"
        )
    return size


def _load_digits(size: tuple[int, int] | None) -> Dataset:
    """1,501 train and 296 test digits: the test split is every sixth of each class.

    The 0..16 of the file become 0..255, rounded.
    """
    table = _read_digits()
    label = table[:, -1].astype(np.int32)
    image = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    if size is not None:
        if len(image) * size[0] * size[1] > IN_MEMORY_BYTES:
            raise ConfigError(
                f"config.data.image_size={size}: the {len(image)} digits are enlarged "
                f"in memory, to {IN_MEMORY_BYTES} bytes at most"
            )
        from PIL import Image

        image = np.stack([to_array(Image.fromarray(x[..., 0]), size) for x in image])
    rank = np.zeros(len(label), int)  # Position among the digits of the same class.
    for k in range(10):
        rank[label == k] = np.arange(np.sum(label == k))
    held_out = rank % 6 == 5
    train, test = (
        InMemory(
            f"digits/{split}",
            int(rows.sum()),
            lambda rows=rows: {"image": image[rows], "label": label[rows]},
        )
        for split, rows in (("train", ~held_out), ("test", held_out))
    )
    names = tuple(str(k) for k in range(10))
    return Dataset(train, test, image.shape[1:], 10, names)


def _read_digits() -> np.ndarray:
    """Rows of 64 pixels in 0..16 and a label, [1797, 65]."""
    import importlib.util

    # Importing sklearn.datasets takes a second, which the first command would wait for.
    (package,) = importlib.util.find_spec("sklearn").submodule_search_locations
    path = Path(package, "datasets", "data", "digits.csv.gz")
    if path.exists():
        return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.concatenate([digits.data, digits.target[:, None]], axis=1)


def _load_synthetic(name: str, size: tuple[int, int] | None) -> Dataset:
    if name not in synthetic.DENSITIES:
        raise ConfigError(
            f"config.data.name: expected synthetic: and one of "
            f"{sorted(synthetic.DENSITIES)}, got {name!r}"
            f"{nearest(name, list(synthetic.DENSITIES))}"
        )
    if size is not None:
        raise ConfigError(
            "config.data.image_size must be None for synthetic data: "
            f"its density is that of its own size, got {size}"
        )
    density = synthetic.DENSITIES[name]
    train, test = (
        InMemory(
            f"synthetic:{name}/{split}",
            count,
            lambda split=split: synthetic.examples(name, split),
        )
        for split, count in (
            ("train", synthetic.NUM_TRAIN),
            ("test", synthetic.NUM_TEST),
        )
    )
    return Dataset(
        train,
        test,
        density.shape,
        density.num_classes,
        entry=density.entry,
        density=density,
    )


def _load_tfds(
    name: str, data_dir: str | None, size: tuple[int, int] | None
) -> Dataset:
    root = tfds_root(data_dir)
    folder = _tfds_folder(name, root)
    import tensorflow_datasets as tfds

    # From the files alone: no builder code, which might want TensorFlow or the network.
    try:
        _check_features(Path(folder, "features.json"))
        builder = tfds.builder_from_directory(folder)
        info = builder.info
    except Exception as error:  # Of many kinds, as what was found there.
        raise ConfigError(
            f"tfds:{name}: the metadata in {folder} cannot be read "
            f"({_in_words(error)}). Remove the folder. {_how_to_get(name, root)}"
        ) from error
    if info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise ConfigError(
            f"tfds:{name}: {folder} holds {info.file_format.value} files, which need "
            f"TensorFlow to read; expected array_record. {_how_to_get(name, root)}"
        )
    features = dict(info.features.items())
    mode, shape = _image_feature(name, features, size)
    label = features.get("label")
    num_classes = getattr(label, "num_classes", None)
    if (num_classes or 0) > MAX_CLASSES:  # TFDS would make a name for each.
        raise ConfigError(
            f"tfds:{name}: the metadata in {folder} says {num_classes} classes, "
            f"expected {MAX_CLASSES} at most. {_how_to_get(name, root)}"
        )
    splits = {}
    for split in ("train", "test", "validation"):
        if split in info.splits:
            _check_shards(name, root, info.splits[split])
            records = _TfdsRecords(builder, split, mode, size, shape, label)
            first = records.first(name, root)
            if split == "train" or label is None or first["label"] >= 0:
                splits[split] = records.examples(name, root)
    if "train" not in splits:
        raise ConfigError(
            f"tfds:{name} must have a split 'train', found {sorted(info.splits)}"
        )
    return Dataset(
        splits["train"],
        splits.get("test", splits.get("validation")),
        shape,
        num_classes,
        tuple(getattr(label, "names", None) or ()) or None,
    )


def _check_features(path: Path) -> None:
    """Refuses features that TFDS does not bring along: it would import any module."""

    def classes(value: Any) -> Iterator[str]:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                if key in ("pythonClassName", "python_class_name", "type"):
                    yield str(inner)
                yield from classes(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from classes(inner)

    for found in classes(read_json(path)):
        if "." in found and not found.startswith(TFDS_FEATURES):
            raise ValueError(
                f"{path.name} names the class {found!r}, "
                f"whose module TFDS would import; expected one of {TFDS_FEATURES}*"
            )


def _check_shards(name: str, root: str, split: Any) -> None:
    """Opens every file of a split, whose end says how many records there are."""
    from array_record.python.array_record_module import ArrayRecordReader

    def count(path: Any) -> int | str:
        try:
            reader = ArrayRecordReader(os.fspath(path))
            found = reader.num_records()
            reader.close()
        except Exception as error:
            return _in_words(error)
        return found

    paths, lengths = split.filepaths, split.shard_lengths
    for path in paths:
        if not path.exists():
            raise ConfigError(
                f"tfds:{name} is incomplete: {path} is missing. "
                f"{_how_to_get(name, root)}"
            )
    with ThreadPoolExecutor(16) as pool:
        for path, length, found in zip(
            paths, lengths, pool.map(count, paths), strict=True
        ):
            if length != found:
                raise ConfigError(
                    f"tfds:{name} is damaged: expected {length} records in {path}, "
                    f"found {found}. Remove its folder. {_how_to_get(name, root)}"
                )


def _tfds_folder(name: str, root: str) -> str:
    """<root>/<name>/<version>, the newest version unless `name:version` is given."""
    from etils import epath

    dataset, _, version = name.partition(":")
    folder = epath.Path(root) / dataset
    found = [p.name for p in folder.iterdir()] if folder.exists() else []
    versions = [
        v
        for v in found
        if v.replace(".", "").isdigit()
        and (not version or v == version)
        and (folder / v / "dataset_info.json").exists()
    ]
    if versions:
        newest = max(versions, key=lambda v: [int(part) for part in v.split(".")])
        return os.fspath(folder / newest)
    if folder.exists():
        there = f"{folder} holds {sorted(found)}."
    elif epath.Path(root).exists():
        sets = sorted(p.name for p in epath.Path(root).iterdir() if p.is_dir())
        there = f"{root} holds {sets}{nearest(dataset, sets)}"
    else:
        there = f"{root} does not exist."
    raise ConfigError(
        f"tfds:{name} was not found: expected {folder}/{version or '<version>'}/"
        f"dataset_info.json, but {there} {_how_to_get(name, root)} "
        "If it lies elsewhere, set config.data.data_dir or TFDS_DATA_DIR."
    )


def _how_to_get(name: str, root: str) -> str:
    dataset = name.partition(":")[0]
    if dataset in ("mnist", "fashion_mnist", "cifar10"):
        return (
            "Prepare it with: "
            f"python -m genjax.data.prepare {dataset} --data_dir={root} ."
        )
    return (
        "Prepare it, where TensorFlow is installed (the extra `prepare`), with: "
        f"tfds build {dataset} --file_format=array_record --data_dir={root} ."
    )


def _image_feature(
    name: str, features: Mapping[str, Any], size: tuple[int, int] | None
) -> tuple[str, tuple[int, int, int]]:
    """The mode ("L" or "RGB") and the shape of the images that examples will have."""
    image = features.get("image")
    if type(image).__name__ != "Image" or image.np_dtype != np.uint8:
        raise ConfigError(
            f"tfds:{name} must have a uint8 image feature called 'image', "
            f"found {', '.join(map(str, features.items()))}"
        )
    h, w, c = image.shape
    if size is None and (h is None or w is None):
        raise ConfigError(
            f"tfds:{name} has images of several sizes (shape {image.shape}): "
            "set config.data.image_size to (H, W)"
        )
    mode = "L" if c in (1, 2) else "RGB"
    return mode, (*(size or (h, w)), len(mode))


class _TfdsRecords:
    """One split of a prepared TFDS data set."""

    def __init__(
        self,
        builder: Any,
        split: str,
        mode: str,
        size: tuple[int, int] | None,
        shape: tuple[int, int, int],
        label: Any,
    ):
        self._builder, self._split = builder, split
        self._mode, self._size, self._shape = mode, size, shape
        self._labelled = label is not None
        self._num_classes = getattr(label, "num_classes", None)
        self._lock = threading.Lock()
        self._opened: Any = None

    def examples(self, name: str, root: str) -> Examples:
        """The split as examples: in memory if it is small."""
        title = f"tfds:{name}/{self._split}"
        length = self._builder.info.splits[self._split].num_examples
        if length * math.prod(self._shape) <= IN_MEMORY_BYTES:
            return InMemory(title, length, lambda: self._read_all(length, name, root))
        return OnDemand(title, length, lambda i: self._decode(self._records[i]))

    def first(self, name: str, root: str) -> Example:
        """The first example; where labels are held back, TFDS has -1.

        Raises:
            ConfigError: If it is not as the metadata says.
        """
        with self._damage_named(name, root):
            return self._decode(self._records[0])

    @contextlib.contextmanager
    def _damage_named(self, name: str, root: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise ConfigError(
                f"tfds:{name}: the split {self._split} in {self._builder.data_path} is "
                f"damaged ({_in_words(error)}). Remove the folder. "
                f"{_how_to_get(name, root)}"
            ) from error

    @property
    def _records(self) -> Any:
        """The serialized examples, a sequence of bytes; opened when first read."""
        import tensorflow_datasets as tfds

        with self._lock:
            if self._opened is None:
                self._opened = self._builder.as_data_source(
                    split=self._split,
                    deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
                )
            return self._opened

    def _decode(self, record: bytes) -> Example:
        from PIL import Image
        from tensorflow_datasets.proto import tf_example_pb2

        # TFDS's own deserializer does the same in five times the time.
        feature = tf_example_pb2.Example.FromString(record).features.feature
        (encoded,) = feature["image"].bytes_list.value
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            example = {"image": to_array(flatten(image), self._size, self._mode)}
        if example["image"].shape != self._shape:
            raise ValueError(
                f"an image of shape {example['image'].shape}, expected {self._shape}"
            )
        if self._labelled:
            label = feature["label"].int64_list.value[0]
            if self._num_classes is not None and label >= self._num_classes:
                raise ValueError(f"label {label} of {self._num_classes} classes")
            example["label"] = np.int32(label)
        return example

    def _read_all(self, length: int, name: str, root: str) -> dict[str, Any]:
        columns = {"image": np.empty((length, *self._shape), np.uint8)}
        if self._labelled:
            columns["label"] = np.empty(length, np.int32)
        # Small images decode under the interpreter's lock, and more threads only slow
        # that down; but one can read ahead, outside the lock.
        chunks = [range(i, min(i + 1000, length)) for i in range(0, length, 1000)]
        with self._damage_named(name, root), ThreadPoolExecutor(1) as pool:
            records = self._records
            for chunk, read in zip(
                chunks, pool.map(records.__getitems__, map(list, chunks)), strict=True
            ):
                for i, record in zip(chunk, read, strict=True):
                    for name, value in self._decode(record).items():
                        columns[name][i] = value
        return columns
