"""The Frechet distance between two Gaussians fitted to features."""

import numpy as np


def frechet_distance(
    mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray
) -> float:
    """|mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)), in float64.

    The trace of the root is the sum of the roots of the eigenvalues of the symmetric
    cov_a^(1/2) cov_b cov_a^(1/2), so singular covariances need no care.

    Args:
        mean_a: [D].
        cov_a: [D, D], symmetric, positive semidefinite.
        mean_b: [D].
        cov_b: [D, D].

    Reference: Dowson & Landau, 1982; as FID in Heusel et al., arXiv:1706.08500, Eq. 6.
    """
    values, vectors = np.linalg.eigh(np.asarray(cov_a, np.float64))
    root_a = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    product = root_a @ np.asarray(cov_b, np.float64) @ root_a
    roots = np.sqrt(np.maximum(np.linalg.eigvalsh((product + product.T) / 2), 0))
    shift = np.asarray(mean_a, np.float64) - np.asarray(mean_b, np.float64)
    return float(shift @ shift + np.trace(cov_a) + np.trace(cov_b) - 2 * roots.sum())


def distance_of_samples(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance between the Gaussians fitted to a [N, D] and b [M, D]."""
    a, b = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (a, b))
    return frechet_distance(
        a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False)
    )


def pixel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance in pixels between uint8 images [N, H, W, C] and [M, H, W, C].

    Pixels are scaled to [-1, 1], and images with a side above 16 are averaged over
    blocks first, so that a thousand samples suffice for the covariance. It sees
    colours, shapes and their spread, no detail: a cheap guard, not an FID.

    Raises:
        ValueError: If the images differ in shape.
    """
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"images differ in shape: {a.shape[1:]} and {b.shape[1:]}")
    return distance_of_samples(_shrink(a), _shrink(b))


def _shrink(images: np.ndarray) -> np.ndarray:
    """Block means, float64 in [-1, 1], with at most 16 pixels a side."""
    h, w = images.shape[1:3]
    rows, columns = (np.arange(0, n, -(-n // 16)) for n in (h, w))
    x = np.add.reduceat(images.astype(np.float64), rows, axis=1)
    x = np.add.reduceat(x, columns, axis=2)
    area = np.outer(np.diff(rows, append=h), np.diff(columns, append=w))
    return x / area[:, :, None] / 127.5 - 1
