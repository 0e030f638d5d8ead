"""Distances between the features of paired images, such as inputs and reconstructions.

Both are means over the features: they do not grow with D.
"""

import numpy as np


def feature_l1(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The mean absolute difference: [N, D] twice -> float64 [N].

    Raises:
        ValueError: Of other shapes, or if they differ.
    """
    return np.abs(_difference(x, y)).mean(axis=1)


def feature_l2(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The root of the mean squared difference: [N, D] twice -> float64 [N].

    Its square is the feature reconstruction loss of Johnson et al., arXiv:1603.08155,
    Eq. 2; the root has the unit of a feature, as `feature_l1` has.

    Raises:
        ValueError: Of other shapes, or if they differ.
    """
    return np.sqrt(np.square(_difference(x, y)).mean(axis=1))


def _difference(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x - y in float64, in which integers do not wrap around."""
    if x.shape != y.shape or x.ndim != 2 or not x.shape[1]:
        raise ValueError(
            "expected features of paired images, both [N, D] with D at least 1, got "
            f"{x.shape} and {y.shape}"
        )
    return x.astype(np.float64) - y.astype(np.float64)
