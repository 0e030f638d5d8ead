"""Which modes of a Gaussian mixture samples cover, and how many samples are good."""

from dataclasses import dataclass

import numpy as np

RADIUS = 3.0  # Standard deviations of a component within which a sample is good.
MIN_SHARE = 0.05  # Of the good samples that a mode is due, to count as covered.


@dataclass(frozen=True)
class Coverage:
    """What `mode_coverage` finds.

    Attributes:
        modes: Components covered.
        good_share: Share of samples that are good, in [0, 1].
        counts: Good samples nearest to each component, int [K].
    """

    modes: int
    good_share: float
    counts: np.ndarray


def mode_coverage(points: np.ndarray, means: np.ndarray, sigma: float) -> Coverage:
    """Counts samples by the component of an even mixture that they are nearest to.

    A sample is good within 3 sigma of its component, as in the paper. There a mode with
    one good sample counts as covered, which depends on the number of samples; here it
    must have a twentieth of its due, N / (20 K).

    Args:
        points: Samples, float [N, D].
        means: Centres of the components, float [K, D].
        sigma: Their standard deviation along each axis.

    Reference: Srivastava et al., VEEGAN, arXiv:1705.07761, Sec. 4.1.
    """
    distances = np.linalg.norm(points[:, None] - means, axis=-1)
    good = distances.min(axis=1) <= RADIUS * sigma
    counts = np.bincount(distances.argmin(axis=1)[good], minlength=len(means))
    needed = max(1.0, MIN_SHARE * len(points) / len(means))
    return Coverage(int((counts >= needed).sum()), float(good.mean()), counts)
