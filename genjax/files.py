"""Files that are there whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a name beside `path` to write to, which takes its place at the end.

    Whoever looks sees the file that was there before or the new one. If the writing
    fails, what was written of it is deleted.

    Args:
        path: Where the file shall be; its folder is made if absent.

    Raises:
        OSError: If it cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def check_writable(folder: str | os.PathLike) -> None:
    """Makes the folder if absent, and really writes a file there, which is deleted.

    Raises:
        OSError: If either cannot be done.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder, prefix=".probe-") as file:
        file.write(b"?")
        file.flush()
