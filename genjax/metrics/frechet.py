"""The Frechet distance between two Gaussians fitted to features."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from genjax.metrics.moments import Moments, moments


def frechet_distance(
    mean_a: Array, cov_a: Array, mean_b: Array, cov_b: Array
) -> Array | float:
    """|mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)).

    It is computed in float64 by NumPy, unless all arguments are JAX arrays, whose dtype
    it then keeps: in float32 it is off by about 1e-6 of the traces. Singular
    covariances need no care.

    Args:
        mean_a: [D].
        cov_a: [D, D], symmetric, positive semidefinite.
        mean_b: [D].
        cov_b: [D, D].

    Returns:
        A float, or of JAX arrays a scalar.

    Raises:
        ValueError: If the shapes do not fit each other; of NumPy arrays also if one is
            not finite, or a covariance not symmetric.

    Reference: Dowson & Landau, 1982; as FID in Heusel et al., arXiv:1706.08500, Eq. 6.
    """
    arrays = mean_a, cov_a, mean_b, cov_b
    shapes, dims = [np.shape(x) for x in arrays], np.shape(mean_a)
    if len(dims) != 1 or shapes != [dims, dims * 2] * 2:
        raise ValueError(
            f"expected means [D] and covariances [D, D] of one D, got shapes {shapes}"
        )
    if all(isinstance(x, jax.Array) for x in arrays):
        root = _trace_of_root_by_jax(cov_a, cov_b)
        return _distance(*arrays, root)
    arrays = [np.asarray(x, np.float64) for x in arrays]
    if not all(np.isfinite(x).all() for x in arrays):
        raise ValueError("expected finite means and covariances, got NaN or infinity")
    for cov in (arrays[1], arrays[3]):
        if not np.allclose(cov, cov.T, atol=1e-6 * max(abs(cov).max(initial=0), 1e-30)):
            raise ValueError("expected symmetric covariances, got another matrix")
    root = _trace_of_root_by_numpy(arrays[1], arrays[3])
    return float(_distance(*arrays, root))


def _distance(mean_a, cov_a, mean_b, cov_b, root):
    shift = mean_a - mean_b
    return shift @ shift + cov_a.trace() + cov_b.trace() - 2 * root


def _trace_of_root_by_numpy(cov_a: np.ndarray, cov_b: np.ndarray) -> float:
    """tr (cov_a cov_b)^(1/2), the sum of the roots of the eigenvalues of F^T cov_b F.

    F F^T is cov_a. 2048 dimensions take a second on two cores.
    """
    try:
        factor = np.linalg.cholesky(cov_a)
    except np.linalg.LinAlgError:  # It is singular.
        factor = _factor(np, cov_a)
    product = factor.T @ cov_b @ factor
    values = np.linalg.eigvalsh((product + product.T) / 2)
    return np.sqrt(np.maximum(values, 0)).sum()


def _trace_of_root_by_jax(cov_a: Array, cov_b: Array) -> Array:
    """The same: the singular values of F_a^T F_b, whose errors no root enlarges."""
    factors = _factor(jnp, cov_a).T @ _factor(jnp, cov_b)
    return jnp.linalg.svd(factors, compute_uv=False).sum()


def _factor(xp, cov):
    """F with F F^T = cov, which may be singular."""
    values, vectors = xp.linalg.eigh(cov)
    return vectors * xp.sqrt(xp.maximum(values, 0))


def distance_of_moments(a: Moments, b: Moments) -> float:
    """Frechet distance between the Gaussians of two sets' moments."""
    return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)


def distance_of_samples(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance between the Gaussians fitted to a [N, D] and b [M, D]."""
    return distance_of_moments(moments(a), moments(b))


def frechet_infinity(
    features: np.ndarray,
    reference: Moments,
    sizes: Sequence[int],
    *,
    seed: int = 0,
) -> float:
    """The distance that infinitely many samples would have, by a line through 1 / n.

    Fitted covariances make the distance of n samples too large by about c / n. A line
    through the distances of subsets, drawn without replacement, takes that away.

    Args:
        features: Of the samples, [N, D].
        reference: Of the real data.
        sizes: n of each subset, from 2 to N, of at least two values. The paper has 15,
            evenly spaced from 5,000 to 50,000.
        seed: Of the subsets.

    Raises:
        ValueError: If sizes are out of range or all equal.

    Reference: Chong & Forsyth, arXiv:1911.07023, Alg. 1.
    """
    if len(set(sizes)) < 2 or not 2 <= min(sizes) <= max(sizes) <= len(features):
        raise ValueError(
            f"sizes must be two or more numbers from 2 to {len(features)}, got {sizes}"
        )
    random = np.random.default_rng(seed)
    distances = [
        distance_of_moments(
            moments(features[random.choice(len(features), n, replace=False)]), reference
        )
        for n in sizes
    ]
    _, at_infinity = np.polyfit(1 / np.asarray(sizes), distances, 1)
    return float(at_infinity)


def pixel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance in pixels between uint8 images [N, H, W, C] and [M, H, W, C].

    Pixels are scaled to [-1, 1], and images with a side above 16 are averaged over
    blocks first, so that a thousand samples suffice for the covariance. It sees
    colours, shapes and their spread, no detail: a cheap guard, not an FID.

    Raises:
        ValueError: If the images differ in shape, or are not of whole numbers from 0
            to 255.
    """
    for x in (a, b):
        if (
            x.dtype.kind not in "ui"
            or not 0 <= x.min(initial=0) <= x.max(initial=0) < 256
        ):
            raise ValueError(
                "expected images of whole numbers from 0 to 255, got "
                f"{x.dtype} from {x.min(initial=0)} to {x.max(initial=0)}"
            )
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
