"""A folder of image files as a source of examples."""

import contextlib
import hashlib
import math
import os
import stat
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genjax.config import ConfigError
from genjax.data import sources

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm")
SUFFIXES += (".tif", ".tiff", ".webp")
SPLITS = ("train", "test", "validation", "val")  # The second that is there tests.
MAX_FILE_BYTES = 2**30  # Some decoders read a whole file first.
# What is larger than one of these is decoded one at a time, to bound the memory.
LARGE_FILE_BYTES, LARGE_PIXELS = 2**26, 2**25
_one_at_a_time = threading.RLock()


@dataclass
class _File:
    """One image file, and what the scan found in it."""

    path: Path
    name: str  # Relative to the folder that was asked for, with forward slashes.
    label: int | None
    size: tuple[int, int] = (0, 0)  # (H, W), upright.
    mode: str = ""  # "L" or "RGB".
    pixels: np.ndarray | None = None  # Kept while the folder may fit in memory.
    error: str = ""


def load_folder(
    path: str,
    *,
    size: tuple[int, int] | None,
    on_bad_file: str = "skip",
    test_fraction: float = 0.1,
) -> sources.Dataset:
    """Reads a folder of images, whose sub-folders, if it has any, are the classes.

    Sub-folders called `train` and `test` (or `validation`, or `val`) are the two
    splits; otherwise a fixed part of the files, chosen by a hash of their names, is
    held out for testing. The test split is in the order of that hash, so that its first
    part is a fair sample. Classes are labelled in the order of their names. A folder
    that links lead to twice is read once. Every file is decoded once here, to find
    those that cannot be. A folder of more than a gibibyte of pixels is decoded as it is
    trained on, and what cannot be read by then gives way (`sources.OnDemand`), or ends
    the run where `on_bad_file` is "fail". Images are turned upright as their EXIF says,
    flattened over white where they are transparent, and of an animation the first frame
    counts. If every file is grey, images have one channel, and otherwise three.

    Only regular files are opened, of at most a gibibyte, and only as the formats of
    `sources.FORMATS`. An image of more pixels than twice PIL.Image.MAX_IMAGE_PIXELS
    (178,956,970 unless a recipe sets that) counts as unreadable by its header alone.
    One image, or fewer than a batch holds, is repeated within the batch.

    Args:
        path: The folder.
        size: (H, W) that images are resized to cover, and cropped to at the centre;
            None asks for images that all have the same size.
        on_bad_file: "skip" leaves unreadable files out with one warning that names
            them; "fail" raises.
        test_fraction: Part of the files to hold out where there is no test folder.

    Raises:
        ConfigError: If there is nothing to read, a folder cannot be listed, splits lie
            beside other things, sizes differ, or a file is bad and `on_bad_file` is
            "fail".
    """
    if on_bad_file not in ("skip", "fail"):
        raise ConfigError(
            f"config.data.on_bad_file must be 'skip' or 'fail', got {on_bad_file!r}"
        )
    if not 0 <= test_fraction < 1:
        raise ConfigError(
            f"config.data.test_fraction must be in [0, 1), got {test_fraction}"
        )
    root = Path(path).expanduser()
    if not root.is_dir():
        raise ConfigError(f"folder:{path} must be a folder of images; there is none")
    train_folder, test_folder = _splits(root)
    files, classes = _find(train_folder, root)
    test_files = _find(test_folder, root, classes)[0] if test_folder else None

    everything = files + (test_files or [])
    _scan(everything, size)
    _report(everything, path, on_bad_file)
    good = [f for f in everything if not f.error]
    shape = (*(size or _common_size(good)), 1 if {f.mode for f in good} == {"L"} else 3)

    train = [f for f in files if not f.error]
    if test_files is not None:
        test = sorted((f for f in test_files if not f.error), key=_digest)
    else:
        train, test = _hold_out(train, test_fraction)
    if not train:
        raise ConfigError(f"folder:{path} has no readable image to train on")
    return sources.Dataset(
        _examples(train, size, shape, on_bad_file),
        _examples(test, size, shape, on_bad_file) if test else None,
        shape,
        len(classes) or None,
        tuple(classes) or None,
    )


def _splits(root: Path) -> tuple[Path, Path | None]:
    """The folders of the training and the test split: the root itself and None, or two.

    Raises:
        ConfigError: If something else lies beside such folders, which would be lost.
    """
    _, folders, names = next(os.walk(root, onerror=_cannot_list))
    splits = [name for name in SPLITS if name in folders]
    if not splits:
        return root, None
    there = {*folders, *(n for n in names if Path(n).suffix.lower() in SUFFIXES)}
    others = sorted(n for n in there - set(splits) if not n.startswith("."))
    if others or "train" not in splits:
        raise ConfigError(
            f"folder:{root} has {', '.join(splits)}, which are read as splits: "
            f"expected 'train' and, beside it, only {', '.join(SPLITS[1:])}, found "
            f"{others[:10] if others else 'no train'}. Move or rename those, or, if "
            f"{splits[0]!r} is a class, rename that"
        )
    return root / "train", root / splits[1] if len(splits) > 1 else None


def _cannot_list(error: OSError) -> None:
    raise ConfigError(f"folder:{error.filename} cannot be listed: {error.strerror}")


def _walk(folder: Path) -> Iterator[Path]:
    """Every visible file below; links are followed, but each folder is read once."""
    seen = set()
    walk = os.walk(folder, followlinks=True, onerror=_cannot_list)
    for parent, folders, names in walk:
        real = os.path.realpath(parent)
        # Sorted, so that of two ways to one folder the same is taken every time.
        folders[:] = sorted(
            f
            for f in folders
            if not f.startswith(".") and not _leads_back(Path(parent, f), folder)
        )
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _leads_back(path: Path, folder: Path) -> bool:
    """Whether a link leads to what is found below the folder by its own name."""
    return path.is_symlink() and path.resolve().is_relative_to(folder.resolve())


def _find(
    folder: Path, root: Path, classes: list[str] | None = None
) -> tuple[list[_File], list[str]]:
    """The image files of one split in the order of their names, and the class names."""
    found, others = [], []
    for path in _walk(folder):
        (found if path.suffix.lower() in SUFFIXES else others).append(path)
    if not found:
        raise ConfigError(
            f"folder:{folder} must hold image files ({' '.join(SUFFIXES)}), "
            f"found none among {len(others)} files"
            + (f" such as {min(others).name}" if others else "")
        )
    if others:
        suffixes = Counter(p.suffix or p.name for p in others).most_common(5)
        counts = ", ".join(f"{suffix} ({count})" for suffix, count in suffixes)
        warnings.warn(
            f"folder:{folder}: {len(others)} files are left out, whose names are not "
            f"those of images: {counts}",
            stacklevel=4,
        )
    parts = {p: p.relative_to(folder).parts for p in found}
    flat = [p for p in found if len(parts[p]) == 1]
    if flat and len(flat) < len(found):
        raise ConfigError(
            f"folder:{folder} must hold either images or a sub-folder for each class, "
            f"found both: {min(flat).name} and {min(set(found) - set(flat))}"
        )
    if classes is None:
        classes = [] if flat else sorted({parts[p][0] for p in found})
    unknown = set() if flat else {parts[p][0] for p in found} - set(classes)
    if unknown or bool(flat) == bool(classes):
        raise ConfigError(
            f"folder:{folder} must have the classes of the train folder, "
            f"{classes or 'none'}, found {sorted({parts[p][0] for p in found})[:10]}"
        )
    label_of = {name: label for label, name in enumerate(classes)}
    files = [
        _File(p, p.relative_to(root).as_posix(), label_of.get(parts[p][0]))
        for p in found
    ]
    return sorted(files, key=lambda f: f.name), classes


def _read(path: Path, size: tuple[int, int] | None, mode: str | None = None):
    """Decodes a file: (upright size (H, W), mode, pixels uint8 [H, W, 1 or 3]).

    A JPEG may be decoded at a half, quarter or eighth of its size, but at no less than
    twice what is asked for; its size is then that.

    Raises:
        Exception: Of many kinds, if it is no regular file, too large or no image.
    """
    from PIL import Image, ImageOps

    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):  # To open a pipe would wait for ever.
        raise ValueError("not a regular file")
    if found.st_size > MAX_FILE_BYTES:
        raise ValueError(f"{found.st_size} bytes, expected {MAX_FILE_BYTES} at most")
    with contextlib.ExitStack() as stack:
        if found.st_size > LARGE_FILE_BYTES:
            stack.enter_context(_one_at_a_time)
        image = stack.enter_context(Image.open(path, formats=sources.FORMATS))
        if size is not None:
            # A camera's photo is decoded and resized several times faster so.
            image.draft(None, (2 * max(size), 2 * max(size)))
        if math.prod(image.size) > LARGE_PIXELS:
            stack.enter_context(_one_at_a_time)
        upright = ImageOps.exif_transpose(image)
        upright.format = image.format  # Lost in the copy.
        flat = sources.flatten(upright)
        return flat.size[::-1], flat.mode, sources.to_array(flat, size, mode)


def _scan(files: list[_File], size: tuple[int, int] | None) -> None:
    """Decodes each file once, and keeps the pixels if all of them fit in memory."""
    from tqdm import tqdm

    def scan(file: _File) -> int:
        try:
            file.size, file.mode, file.pixels = _read(file.path, size)
        except Exception as error:  # Decoders raise errors of many kinds.
            file.error = f"{type(error).__name__}: {error}"
            return 0
        return file.pixels.nbytes

    kept = 0
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        progress = tqdm(
            zip(files, pool.map(scan, files), strict=True),
            desc="scanning images",
            total=len(files),
            disable=len(files) < 2000,
        )
        for file, num_bytes in progress:
            # Grey images may have to become colour, three times as large.
            kept += num_bytes * (3 if file.mode == "L" else 1)
            if kept > sources.IN_MEMORY_BYTES:
                file.pixels = None
    if kept > sources.IN_MEMORY_BYTES:
        for file in files:
            file.pixels = None


def _report(files: list[_File], path: str, on_bad_file: str) -> None:
    bad = [f for f in files if f.error]
    if not bad:
        return
    named = "; ".join(f"{f.name} ({f.error})" for f in bad[:5])
    message = f"folder:{path}: {len(bad)} of {len(files)} files cannot be read: {named}"
    message += "; ..." if len(bad) > 5 else ""
    if on_bad_file == "fail" or len(bad) == len(files):
        raise ConfigError(message)
    warnings.warn(f"{message}. They are left out.", stacklevel=4)


def _common_size(files: list[_File]) -> tuple[int, int]:
    for file in files:
        if file.size != files[0].size:
            side = min(min(f.size) for f in files)
            raise ConfigError(
                "images must have the same size unless config.data.image_size is set: "
                f"{files[0].name} is {files[0].size} and {file.name} is {file.size} "
                f"(H, W). The shortest side is {side}: "
                f"try config.data.image_size = ({side}, {side})"
            )
    return files[0].size


def _hold_out(files: list[_File], fraction: float) -> tuple[list[_File], list[_File]]:
    """Splits off the files whose hashed names come first, for stability."""
    count = min(round(fraction * len(files)), len(files) - 1)
    held_out = sorted(files, key=_digest)[:count]
    names = {f.name for f in held_out}
    return [f for f in files if f.name not in names], held_out


def _digest(file: _File) -> bytes:
    return hashlib.sha256(os.fsencode(file.name)).digest()


def _examples(
    files: list[_File],
    size: tuple[int, int] | None,
    shape: tuple[int, int, int],
    on_bad_file: str,
) -> sources.Examples:
    if any(f.pixels is None for f in files):
        return _Files(files, size, shape, on_bad_file)
    columns = {"image": np.empty((len(files), *shape), np.uint8)}
    for i, file in enumerate(files):
        columns["image"][i] = file.pixels  # Grey broadcasts to the channels of colour.
        file.pixels = None
    if files[0].label is not None:
        columns["label"] = np.array([f.label for f in files], np.int32)
    return _Folder(files, columns)


class _Folder(sources.InMemory):
    """Images in memory that know which files they came from."""

    def __init__(self, files: list[_File], columns: dict[str, np.ndarray]):
        super().__init__("folder", len(files), lambda: columns)
        self._names = [f.name for f in files]

    def origin(self, index: int) -> str:
        """The file, relative to the folder."""
        return self._names[index]


class _Files(sources.OnDemand):
    """Images decoded from their files each time."""

    def __init__(
        self,
        files: list[_File],
        size: tuple[int, int] | None,
        shape: tuple[int, int, int],
        on_bad_file: str,
    ):
        tries = sources.MAX_TRIES if on_bad_file == "skip" else 1
        super().__init__("folder", len(files), self._load, max_tries=tries)
        self._files, self._image_size, self._shape = files, size, shape

    def _load(self, index: int) -> sources.Example:
        file, mode = self._files[index], "L" if self._shape[-1] == 1 else "RGB"
        image = _read(file.path, self._image_size, mode)[-1]
        if image.shape != self._shape:
            raise ValueError(f"shape {image.shape}, expected {self._shape} as before")
        example = {"image": image}
        if file.label is not None:
            example["label"] = np.int32(file.label)
        return example

    def title(self, position: int) -> str:
        """The file, relative to the folder."""
        return self._files[position].name
