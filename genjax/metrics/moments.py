"""Mean and covariance of features that come in batches.

Moments of parts add up to those of the whole: batches, devices and hosts each keep
their own, and `merge` puts them together.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Sums over N feature vectors, as float64 NumPy arrays.

    Attributes:
        count: N.
        mean: [D].
        scatter: Sum of (x - mean) (x - mean)^T, [D, D].
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased estimate, [D, D].

        Raises:
            ValueError: Of fewer than two vectors.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs two examples, got {self.count}")
        return self.scatter / (self.count - 1)


def moments(x: np.ndarray) -> Moments:
    """Those of features [N, ...], flattened to [N, D]; any float or integer dtype.

    Raises:
        ValueError: If there are none, or some are not finite.
    """
    x = finite(np.asarray(x, np.float64).reshape(len(x), -1) if len(x) else x)
    mean = x.mean(axis=0)
    centred = x - mean
    return Moments(len(x), mean, centred.T @ centred)


def finite(x: np.ndarray) -> np.ndarray:
    """The same features; raises ValueError unless there are some, all finite."""
    if not len(x):
        raise ValueError("expected features of one example or more, got none")
    bad = ~np.isfinite(np.asarray(x).reshape(len(x), -1)).all(axis=1)
    if bad.any():
        raise ValueError(
            f"features must be finite, but {bad.sum()} of {len(x)} examples have a NaN "
            f"or an infinity, the first of them number {bad.argmax()}"
        )
    return x


def merge(parts: Iterable[Moments]) -> Moments:
    """Moments of all that the parts have seen together.

    Raises:
        ValueError: If there are no parts, or they differ in D.

    Reference: Chan, Golub & LeVeque, 1979, Eq. 2.1, for vectors.
    """
    parts = [part for part in parts if part.count]
    sizes = {part.mean.shape for part in parts}
    if len(sizes) != 1:
        raise ValueError(f"merging needs features of one size, got {sorted(sizes)}")
    return reduce(_merge_two, parts)


def _merge_two(a: Moments, b: Moments) -> Moments:
    count, shift = a.count + b.count, b.mean - a.mean
    mean = a.mean + shift * (b.count / count)
    between = np.outer(shift, shift) * (a.count * b.count / count)
    return Moments(count, mean, a.scatter + b.scatter + between)
