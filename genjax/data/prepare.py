"""Prepares MNIST, Fashion-MNIST and CIFAR-10 for `tfds:<name>`, without TensorFlow.

    python -m genjax.data.prepare mnist [fashion_mnist cifar10] [--data_dir=...]

downloads the original archives from the addresses that TFDS uses, checks them against
its SHA-256 sums, and has TFDS write what it would write itself: the same features,
metadata and order of records, as array_record. Without --data_dir that is where TFDS
looks: TFDS_DATA_DIR, or else ~/tensorflow_datasets. Archives that you already have are
taken from --archives=DIR. Run again, it continues an interrupted download, and leaves a
set that is already prepared alone.

Any other set of the TFDS catalogue needs TensorFlow, once, to be prepared:

    python -m pip install '.[prepare]'
    tfds build <name> --file_format=array_record --data_dir=...
"""

import argparse
import gzip
import hashlib
import http.client
import io
import os
import sys
import tarfile
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from genjax.config import ConfigError
from genjax.data.sources import tfds_root


@dataclass(frozen=True)
class Archive:
    """A file of the original data set."""

    url: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[-1]


_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist/"
# No https there; the sums below are what makes sure of the content.
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"

ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "mnist": (
        Archive(
            _MNIST + "train-images-idx3-ubyte.gz",
            9912422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        Archive(
            _MNIST + "train-labels-idx1-ubyte.gz",
            28881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        Archive(
            _MNIST + "t10k-images-idx3-ubyte.gz",
            1648877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        Archive(
            _MNIST + "t10k-labels-idx1-ubyte.gz",
            4542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    "fashion_mnist": (
        Archive(
            _FASHION + "train-images-idx3-ubyte.gz",
            26421880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        Archive(
            _FASHION + "train-labels-idx1-ubyte.gz",
            29515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        Archive(
            _FASHION + "t10k-images-idx3-ubyte.gz",
            4422102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        Archive(
            _FASHION + "t10k-labels-idx1-ubyte.gz",
            5148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    # The binary version, as TFDS takes; the Python one holds pickles, which run code.
    "cifar10": (
        Archive(
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            170052171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
    ),
}


def prepare(
    name: str,
    data_dir: str | None = None,
    *,
    archives_dir: str | None = None,
    archives: Mapping[str, tuple[Archive, ...]] = ARCHIVES,
) -> Path:
    """Writes <data_dir>/<name>/<version>/ for `tfds.data_source`, all of it or nothing.

    Args:
        name: "mnist", "fashion_mnist" or "cifar10".
        data_dir: TFDS's folder; None is TFDS_DATA_DIR or TFDS's default.
        archives_dir: Where the original archives lie already; None downloads them to
            <data_dir>/downloads/<name>.
        archives: Which files the original consists of.

    Returns:
        The folder written, or found prepared.

    Raises:
        ConfigError: If an archive is missing, cannot be downloaded or is not the
            original, or if the folder holds another file format or only a part.
    """
    if name not in archives:
        raise ConfigError(
            f"expected one of {', '.join(archives)}, got {name!r}. TFDS itself "
            "prepares others, where TensorFlow is installed: "
            f"tfds build {name} --file_format=array_record"
        )
    import tensorflow_datasets as tfds

    root = tfds_root(data_dir)
    try:
        builder = tfds.builder(name, data_dir=root)
    except Exception as error:  # Of many kinds, as what was found there.
        raise ConfigError(
            f"the metadata in {Path(root, name)} cannot be read "
            f"({type(error).__name__}: {error}): remove the folder and run the command "
            "again"
        ) from error
    folder = Path(os.fspath(builder.data_path))
    array_record = tfds.core.FileFormat.ARRAY_RECORD
    if folder.exists():
        metadata = folder / "dataset_info.json"
        if metadata.exists() and builder.info.file_format is not array_record:
            raise ConfigError(
                f"{folder} is already prepared as {builder.info.file_format.value}; "
                "expected array_record, to read without TensorFlow: "
                "choose another --data_dir"
            )
        records = [p for s in builder.info.splits.values() for p in s.filepaths]
        if missing := [p for p in (metadata, *records) if not p.exists()]:
            raise ConfigError(
                f"{folder} is incomplete, without {missing[0]}: remove the folder and "
                "run the command again"
            )
        print(f"{name} is already prepared in {folder}")
        return folder
    if archives_dir is None:
        downloads = Path(root, "downloads", name)
        paths = [download(archive, downloads) for archive in archives[name]]
    else:
        paths = [find(archive, Path(archives_dir)) for archive in archives[name]]

    if name == "cifar10":
        names, splits = read_cifar10(paths[0])
        builder.info.features["label"].names = names
    else:
        splits = read_mnist(*paths)
    # TFDS's builder encodes arrays with TensorFlow, so we give it ready PNG bytes. The
    # rest is its own: the shuffling by key, the records, the metadata, and the rename
    # of a temporary folder at the end.
    downloaded = SimpleNamespace(downloaded_size=sum(a.size for a in archives[name]))
    builder._make_download_manager = lambda **_: downloaded
    builder._split_generators = lambda _: splits
    builder.download_and_prepare(file_format=array_record)
    return folder


def find(archive: Archive, folder: Path) -> Path:
    """The archive in a folder of the user's, checked."""
    path = folder / archive.name
    if not path.is_file():
        raise ConfigError(f"expected {archive.name} in {folder}, from {archive.url}")
    _check(path, archive, f"Get it again from {archive.url}")
    return path


def download(archive: Archive, folder: Path) -> Path:
    """Downloads an archive, continuing where an earlier attempt stopped.

    It lies beside its name until it is whole and its sum is right.

    Raises:
        ConfigError: If that fails, with the address, and where to put the file by hand.
    """
    path, part = folder / archive.name, folder / f"{archive.name}.part"
    if path.is_file():
        _check(path, archive, "Remove it, and run the command again")
        return path
    by_hand = (
        f"or get the file otherwise and put it at {path}, or give the folder that "
        "holds it as --archives"
    )
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _fetch(archive, part)
    except (OSError, http.client.HTTPException) as error:
        raise ConfigError(
            f"cannot download {archive.url}: {error}. Run the command again to "
            f"continue, {by_hand}"
        ) from error
    if part.stat().st_size < archive.size:
        raise ConfigError(
            f"the connection to {archive.url} ended after {part.stat().st_size} of "
            f"{archive.size} bytes. Run the command again to continue, {by_hand}"
        )
    try:
        _check(part, archive, f"It is removed. Run the command again, {by_hand}")
    except ConfigError:
        part.unlink()  # It would fail for ever.
        raise
    part.rename(path)
    return path


def _fetch(archive: Archive, part: Path) -> None:
    """Appends to `part` what it lacks.

    Raises:
        OSError: If the server cannot be reached or has something else there.
    """
    from tqdm import tqdm

    have = part.stat().st_size if part.is_file() else 0
    if have >= archive.size:
        return
    request = urllib.request.Request(archive.url)
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=60) as response:
        if response.status != 206:  # The server sends the whole file.
            have = 0
        kind = response.headers.get_content_type()
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and have + int(length) != archive.size:
            raise OSError(
                f"the server sends {have + int(length)} bytes of {kind}, expected "
                f"{archive.size}: has it moved, or does this network ask for a login?"
            )
        block = response.read(1 << 18)
        if not have and block.lstrip()[:1] == b"<":  # No archive begins so.
            raise OSError(
                f"the server sends a page ({kind}), expected an archive: has it moved, "
                "or does this network ask for a login?"
            )
        with (
            open(part, "ab" if have else "wb") as file,
            tqdm(
                desc=archive.name,
                total=archive.size,
                initial=have,
                unit="B",
                unit_scale=True,
            ) as progress,
        ):
            while block and have <= archive.size:
                have += file.write(block)
                progress.update(len(block))
                block = response.read(1 << 18)


def read_mnist(
    train_images: Path, train_labels: Path, test_images: Path, test_labels: Path
) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    """The splits of MNIST or a set in its format, as TFDS's builder takes them."""

    def examples(images: np.ndarray, labels: np.ndarray):
        if len(images) != len(labels):
            raise ConfigError(f"found {len(images)} images and {len(labels)} labels")
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": _png(image), "label": int(label)}

    return {
        "train": examples(read_idx(train_images), read_idx(train_labels)),
        "test": examples(read_idx(test_images), read_idx(test_labels)),
    }


def read_idx(path: Path) -> np.ndarray:
    """A gzipped file of the MNIST format: uint8 of the shape that its header says."""
    with gzip.open(path) as file:
        content = file.read()
    # Two zeros, 8 for uint8, the number of dimensions; then each as big-endian int32.
    if content[:3] != b"\0\0\x08":
        raise ConfigError(f"{path.name} is not an idx file of bytes: {content[:4]!r}")
    rank = content[3]
    shape = np.frombuffer(content, ">i4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def read_cifar10(
    path: Path,
) -> tuple[list[str], dict[str, Iterator[tuple[int, dict[str, Any]]]]]:
    """The class names and the splits of CIFAR-10, as TFDS's builder takes them."""
    with tarfile.open(path) as tar:

        def read(name: str) -> bytes:
            return tar.extractfile(f"cifar-10-batches-bin/{name}").read()

        names = [n for n in read("batches.meta.txt").decode().split("\n") if n]
        train = b"".join(read(f"data_batch_{i}.bin") for i in range(1, 6))
        test = read("test_batch.bin")

    def examples(split: str, content: bytes):
        # A record is the label and 32x32 red, green and blue values, row by row.
        records = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
        for i, record in enumerate(records):
            image = record[1:].reshape(3, 32, 32).transpose(1, 2, 0)
            example = {"image": _png(image), "label": int(record[0])}
            yield i, {"id": f"{split}_{i:05d}", **example}

    return names, {"train": examples("train", train), "test": examples("test", test)}


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, "PNG")
    return file.getvalue()


def _check(path: Path, archive: Archive, advice: str) -> None:
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != archive.sha256:
        raise ConfigError(
            f"{path} is not the original {archive.name} of {archive.url}: expected "
            f"{archive.size} bytes with SHA-256 {archive.sha256}, found "
            f"{path.stat().st_size} bytes with {found}. {advice}"
        )


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m genjax.data.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="+", help=", ".join(ARCHIVES))
    parser.add_argument("--data_dir", help="default: TFDS_DATA_DIR, or TFDS's own")
    parser.add_argument("--archives", help="folder of already downloaded archives")
    options = parser.parse_args(arguments)
    try:
        for name in options.name:
            prepare(name, options.data_dir, archives_dir=options.archives)
    except (ConfigError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
