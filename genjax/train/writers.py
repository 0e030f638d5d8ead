"""What a run writes about itself: metrics.jsonl, TensorBoard and sample grids."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from genjax import images

# Where PyTorch is installed tensorboardX imports it, for seconds, and does not need it.
_torch = sys.modules.setdefault("torch", None)
from tensorboardX import SummaryWriter  # noqa: E402

if _torch is None:
    del sys.modules["torch"]

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def say(line: str) -> None:
    """One line for the person at the terminal, from one process."""
    if jax.process_index() == 0:
        print(line, file=sys.stderr)


class Writer:
    """Appends to `<workdir>/metrics.jsonl` and mirrors it to TensorBoard."""

    def __init__(self, workdir: Path):
        """Opens both for appending, so that a resumed run goes on.

        Of several processes the first writes; to the others all this does nothing.
        """
        self.workdir, self.active = workdir, jax.process_index() == 0
        if self.active:
            path = workdir / "metrics.jsonl"
            self.lines = open(path, "a", buffering=1)  # noqa: SIM115
            self.board = SummaryWriter(str(workdir / "tensorboard"))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One line with step, wall time in seconds since 1970, and the values."""
        if not self.active:
            return
        line = {"step": step, "time": round(time.time(), 3), **values}
        self.lines.write(json.dumps(line) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def grid(self, step: int, samples: np.ndarray) -> None:
        """Saves images uint8 [N, H, W, C] or points [N, 2] as `samples/<step>.png`."""
        if not self.active:
            return
        path = self.workdir / "samples" / f"{step:08d}.png"
        picture = images.grid(samples) if samples.ndim == 4 else scatter(samples)
        images.save_png(path, picture, min_side=512)
        self.board.add_image("samples", picture, step, dataformats="HWC")

    def close(self) -> None:
        """Flushes both."""
        if self.active:
            self.lines.close()
            self.board.close()


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
