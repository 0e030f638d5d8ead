"""What a run writes about itself: metrics.jsonl, TensorBoard and sample grids."""

import contextlib
import itertools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import jax
import numpy as np

from genjax import images

# Where PyTorch is installed tensorboardX imports it, for seconds, and does not need it.
_torch = sys.modules.setdefault("torch", None)
from tensorboardX import summary  # noqa: E402
from tensorboardX.event_file_writer import EventsWriter  # noqa: E402
from tensorboardX.proto.event_pb2 import Event  # noqa: E402

if _torch is None:
    del sys.modules["torch"]

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLUSH = 30  # Seconds between what TensorBoard gets to see.
LINES, BOARD, GRIDS = "lines of metrics.jsonl", "entries of TensorBoard", "sample grids"
_files = itertools.count()  # TensorBoard's, of this process.


def say(line: str) -> None:
    """One line for the person at the terminal, from one process."""
    if jax.process_index() == 0:
        Terminal(sys.stderr).write(f"{line}\n")


class Terminal:
    """A stream to people, whose failing ends nothing: they may have left, or its disk
    may be full."""

    def __init__(self, stream: TextIO):
        """Writes to `stream`."""
        self.stream = stream

    def write(self, text: str) -> None:
        """Writes it if it can be."""
        with contextlib.suppress(OSError, ValueError):
            self.stream.write(text)
            self.stream.flush()

    def flush(self) -> None:
        """Has been done."""

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)


class Writer:
    """Appends to `<workdir>/metrics.jsonl` and mirrors it to TensorBoard.

    What cannot be written is lost, and said: once when it begins, and at the end how
    much it was. Training goes on, and the next is tried again.
    """

    def __init__(self, workdir: Path):
        """Opens metrics.jsonl for appending, so that a resumed run goes on.

        Of several processes the first writes; to the others all this does nothing.
        """
        self.workdir, self.active = workdir, jax.process_index() == 0
        self.lost: Counter[str] = Counter()
        if self.active:
            self.lines = Lines(workdir / "metrics.jsonl")
            self.board = Board(workdir / "tensorboard")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One line with step, wall time in seconds since 1970, and the values."""
        if not self.active:
            return
        line = {"step": step, "time": round(time.time(), 3), **values}
        with self.trying(LINES):
            self.lines.add(json.dumps(line))
        with self.trying(BOARD):
            self.board.add(step, *(summary.scalar(k, v) for k, v in values.items()))

    def grid(self, step: int, samples: np.ndarray) -> None:
        """Saves images uint8 [N, H, W, C] or points [N, 2] as `samples/<step>.png`."""
        if not self.active:
            return
        path = self.workdir / "samples" / f"{step:08d}.png"
        picture = images.grid(samples) if samples.ndim == 4 else scatter(samples)
        with self.trying(GRIDS):
            images.save_png(path, picture, min_side=512)
        with self.trying(BOARD):
            shown = summary.image("samples", picture, dataformats="HWC")
            self.board.add(step, shown)

    @contextlib.contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """Counts what fails for the disk's sake, and warns when that begins."""
        try:
            yield
        except OSError as error:
            self.lost[what] += 1
            if self.lost[what] == 1:
                say(
                    f"warning: {what} cannot be written, but training goes on and "
                    f"tries it again each time: {error}"
                )

    def close(self) -> None:
        """Flushes both, and says what was lost."""
        if not self.active:
            return
        self.lines.close()
        with self.trying(BOARD):
            self.board.close()
        for what, count in self.lost.items():
            say(f"warning: {count} {what} were lost: they could not be written")
        self.lost.clear()


class Lines:
    """A file of lines, which ends with a whole one whatever happens."""

    def __init__(self, path: Path):
        """Opens it to append; half a line, of a process that was killed, is cut."""
        self.file = open(path, "ab+", buffering=0)  # noqa: SIM115
        self.whole = self.cut()

    def cut(self) -> bool:
        """Cuts what stands behind the last end of a line. Whether that worked."""
        try:
            end = size = self.file.seek(0, os.SEEK_END)
            while end:
                start = max(0, end - 4096)
                self.file.seek(start)
                if (found := self.file.read(end - start).rfind(b"\n")) >= 0:
                    end = start + found + 1
                    break
                end = start
            if end < size:
                self.file.truncate(end)
        except OSError:  # Such as a device, which has no size.
            return False
        return True

    def add(self, line: str) -> None:
        """Appends a line.

        Raises:
            OSError: If it could not be written; then nothing of it is there.
        """
        if not self.whole:
            self.whole = self.cut()
        text = f"{line}\n".encode()
        try:
            if self.file.write(text) != len(text):
                raise OSError("only a part of the line could be written")
        except OSError:
            self.whole = self.cut()
            raise

    def close(self) -> None:
        """Closes the file."""
        with contextlib.suppress(OSError):
            self.file.close()


class Board:
    """TensorBoard's event files, written when asked and not by a thread.

    That of tensorboardX's own writer ends at the first error, after which the queue
    before it fills up and blocks the caller for ever.
    """

    def __init__(self, folder: Path):
        """Opens nothing before there is something to write."""
        self.folder, self.file = folder, None

    def add(self, step: int, *values: object) -> None:
        """Adds summaries.

        Raises:
            OSError: If they cannot be written; the next open another file, because what
                stands behind a broken entry is not read.
        """
        try:
            if self.file is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                # The name has seconds, of a clock that may have been set back.
                suffix = f".{os.getpid()}.{next(_files)}"
                self.file = EventsWriter(str(self.folder / "events"), suffix)
                self.flushed = time.monotonic()
            for value in values:
                event = Event(step=step, wall_time=time.time(), summary=value)
                self.file.write_event(event)
            if time.monotonic() - self.flushed > FLUSH:
                self.file.flush()
                self.flushed = time.monotonic()
        except OSError:
            with contextlib.suppress(OSError):
                self.close()
            raise

    def close(self) -> None:
        """Writes what is held back.

        Raises:
            OSError: If that cannot be.
        """
        file, self.file = self.file, None
        if file is not None:
            file.close()


def scatter(points: np.ndarray, size: int = 600) -> np.ndarray:
    """Plots points [N, 2], by their first two numbers if there are more.

    Returns:
        A picture, uint8 [size, size, 3].
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6), dpi=size / 6)
    axes = figure.add_subplot(aspect="equal")
    axes.scatter(points[:, 0], points[:, 1], s=4, linewidths=0, alpha=0.5)
    axes.set_title(f"{len(points)} samples")
    return pixels(figure)


def panel(
    *,
    points: np.ndarray | None = None,
    field: np.ndarray | None = None,
    edge: float,
    size: int = 360,
) -> np.ndarray:
    """Plots points [N, 2] or a field [H, W] on the square from -edge to edge.

    Returns:
        A picture without axes, uint8 [size, size, 3].
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6, 3.6), dpi=size / 3.6)
    axes = figure.add_axes((0, 0, 1, 1))
    if field is not None:
        axes.imshow(field, origin="lower", extent=(-edge, edge, -edge, edge))
    if points is not None:
        axes.scatter(points[:, 0], points[:, 1], s=1.5, linewidths=0, alpha=0.5)
    axes.set(xlim=(-edge, edge), ylim=(-edge, edge))
    axes.set_axis_off()
    return pixels(figure)


def pixels(figure: "Figure") -> np.ndarray:
    """The figure drawn, uint8 [H, W, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
