"""How much memory this process takes, on Linux."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


def megabytes(name: str) -> float:
    """A number of /proc/self/status: VmRSS, now, or VmHWM, at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(name)]
    return int(line.split()[1]) / 1024


@contextlib.contextmanager
def grows_by_less_than(limit: float) -> Iterator[None]:
    """Holds what runs within to so many megabytes at its peak, above those before."""
    Path("/proc/self/clear_refs").write_text("5")  # Forgets the peak so far.
    before = megabytes("VmRSS")
    yield
    grown = megabytes("VmHWM") - before
    assert grown < limit, f"grew by {grown:.0f} MB"
