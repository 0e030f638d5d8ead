"""Reading files that may come from anybody: nothing in them runs, and none is too big.

Nothing here unpickles, imports or evaluates. What a file declares is compared with the
size that it has before memory is asked for.
"""

import contextlib
import json
import math
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from genjax.config import ConfigError

MAX_JSON = 64 * 2**20  # Bytes. The names of 100,000 arrays take a third of that.


@contextlib.contextmanager
def reading(what: str | Path) -> Iterator[None]:
    """Whatever a library says of a file that it cannot read becomes a ConfigError.

    Args:
        what: Is read within, for the message.

    Raises:
        ConfigError: For any other error, or as it was.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # Damage can surface as any error of any layer.
        first = (str(error).strip() or "no more is known").splitlines()[0]
        raise ConfigError(
            f"{what} cannot be read: {type(error).__name__}: {first[:500]}"
        ) from error


def check_regular(path: Path, limit: int | None = None) -> None:
    """Holds a file to being one: to open a pipe or a device could wait for ever.

    Raises:
        ConfigError: If it is something else, or larger than the limit, in bytes.
        FileNotFoundError: If it is not there.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{path} must be a file, and is something else")
    if limit is not None and found.st_size > limit:
        raise ConfigError(
            f"{path} has {found.st_size} bytes, and at most {limit} are read of it"
        )


def read_json(path: Path) -> Any:
    """The values of a JSON.

    Raises:
        ConfigError: If it is none, or larger than `MAX_JSON`.
        FileNotFoundError: If it is not there.
    """
    check_regular(path, MAX_JSON)
    with reading(path):
        return json.loads(path.read_text(encoding="utf-8"))


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors, whose header the library holds to the file's size.

    Raises:
        ValueError: If it is none, or a number in it is not finite.
        FileNotFoundError: If it is not there.
    """
    from safetensors.numpy import load_file

    try:
        check_regular(path)
        arrays = load_file(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # A dtype that NumPy lacks is a KeyError.
        raise ValueError(f"{path} is no .safetensors file: {error}") from None
    if names := not_finite(arrays):
        raise ValueError(f"{path} has numbers that are not finite, in {some(names)}")
    return arrays


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an uncompressed .npz, as np.savez writes them; no pickles.

    Raises:
        ValueError: If it is none, or declares more than it holds.
        FileNotFoundError: If it is not there.
    """
    try:
        check_regular(path)
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                _check_member(archive, member, path.stat().st_size)
        with np.load(path, allow_pickle=False) as file:
            return dict(file.items())
    except FileNotFoundError:
        raise
    except Exception as error:  # Python's zipfile has many.
        raise ValueError(f"{path} is no .npz of arrays: {error}") from None


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, size: int) -> None:
    """Raises ValueError if an array of the archive declares more than it holds."""
    if member.compress_type != zipfile.ZIP_STORED or member.file_size > size:
        raise ValueError(f"{member.filename} is compressed, or not all there")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{member.filename} has the format {version}")
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(file)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize > member.file_size:
        raise ValueError(f"{member.filename} declares {shape} of {dtype}")


def not_finite(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Names of the arrays of numbers with a NaN or an infinity, in their order."""
    return [
        name
        for name, array in arrays.items()
        # Of JAX's own floats, such as bfloat16, NumPy says no more than "V".
        if array.dtype.kind in "fcV" and not np.isfinite(array).all()
    ]


def some(names: list[str], most: int = 10) -> str:
    """The first ten, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
