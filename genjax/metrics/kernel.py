"""The kernel distance between features: an unbiased squared MMD."""

from typing import NamedTuple

import numpy as np

from genjax.metrics.moments import finite


class KernelDistance(NamedTuple):
    """A mean over subsets.

    Attributes:
        value: Mean.
        variance: Of the subsets' values around it.
    """

    value: float
    variance: float


def polynomial_kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(a . b / D + 1)^3 of all pairs: [N, D], [M, D] -> [N, M].

    Reference: Binkowski et al., arXiv:1801.01401, Eq. 3.
    """
    return (a @ b.T / a.shape[1] + 1) ** 3


def squared_mmd(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy, in float64.

    Args:
        a: Features [N, D], N at least 2.
        b: Features [M, D], M at least 2.

    Raises:
        ValueError: If there are fewer, they differ in D, or some are not finite.

    Reference: Gretton et al., JMLR 13, 2012, Eq. 3, with `polynomial_kernel`.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"expected two examples or more, got {len(a)} and {len(b)}")
    a, b = (finite(np.asarray(x, np.float64).reshape(len(x), -1)) for x in (a, b))
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features differ in size: {a.shape[1]} and {b.shape[1]}")

    def within(x: np.ndarray) -> float:
        kernel = polynomial_kernel(x, x)
        return (kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * polynomial_kernel(a, b).mean())


def kernel_distance(
    a: np.ndarray,
    b: np.ndarray,
    *,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> KernelDistance:
    """Squared MMD, the mean over random subsets of both sets; KID on its features.

    Args:
        a: Features [N, D].
        b: Features [M, D].
        num_subsets: How many pairs of subsets, each drawn without replacement.
        subset_size: Examples in each, at most N and M.
        seed: Of the subsets.

    Raises:
        ValueError: If there are fewer than `subset_size` examples.

    Reference: Binkowski et al., arXiv:1801.01401, Sec. 4.
    """
    if not 2 <= subset_size <= min(len(a), len(b)):
        raise ValueError(
            f"subset_size must be from 2 to {min(len(a), len(b))}, the examples of the "
            f"smaller set, got {subset_size}"
        )
    random = np.random.default_rng(seed)

    def subset(x: np.ndarray) -> np.ndarray:
        return x[random.choice(len(x), subset_size, replace=False)]

    values = [squared_mmd(subset(a), subset(b)) for _ in range(num_subsets)]
    return KernelDistance(float(np.mean(values)), float(np.var(values)))
