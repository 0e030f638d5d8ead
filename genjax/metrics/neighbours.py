"""What nearest neighbours tell of samples: precision, coverage and memorisation."""

from typing import NamedTuple

import numpy as np

from genjax.metrics.moments import finite

ROWS = 1024  # Examples whose distances are held in memory at once.


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances of all pairs, float64: [N, D], [M, D] -> [N, M].

    Raises:
        ValueError: If they differ in D, or some are not finite.
    """
    a, b = (finite(np.asarray(x, np.float64)) for x in (a, b))
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"features differ in size: {a.shape[1:]} and {b.shape[1:]}")
    squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0))


def nearest(
    queries: np.ndarray, examples: np.ndarray, k: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The k examples nearest to each query.

    Args:
        queries: [N, ...], flattened.
        examples: [M, ...], M at least k.
        k: How many.

    Returns:
        (distances float64 [N, k], increasing; indices int [N, k]).

    Raises:
        ValueError: If there are fewer than k examples.
    """
    if not 1 <= k <= len(examples):
        raise ValueError(f"k must be from 1 to {len(examples)} examples, got {k}")
    queries, examples = (
        np.asarray(x, np.float64).reshape(len(x), -1) for x in (queries, examples)
    )
    found = []
    for start in range(0, len(queries), ROWS):
        d = distances(queries[start : start + ROWS], examples)
        index = np.argpartition(d, k - 1, axis=1)[:, :k]
        d = np.take_along_axis(d, index, 1)
        order = np.argsort(d, axis=1, kind="stable")
        found.append([np.take_along_axis(x, order, 1) for x in (d, index)])
    far, index = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return far, index


class Prdc(NamedTuple):
    """Shares of examples; all but the density lie in [0, 1].

    Attributes:
        precision: Samples within the ball of some real example.
        recall: Real examples within the ball of some sample.
        density: Balls of real examples that a sample lies in, over k.
        coverage: Real examples whose ball holds a sample.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: np.ndarray, samples: np.ndarray, k: int = 5) -> Prdc:
    """Precision, recall, density and coverage by balls up to k-th neighbours.

    The ball of an example reaches to the k-th nearest other example of its own set.

    Args:
        real: Features [N, D], N above k.
        samples: Features [M, D], M above k.
        k: Neighbours; the papers have 3 for the first two and 5 for the others.

    Raises:
        ValueError: If a set is too small.

    References:
        Kynkaanniemi et al., arXiv:1904.06991, Eqs. 1-3.
        Naeem et al., arXiv:2002.09797, Eqs. 3-4.
    """
    if k >= min(len(real), len(samples)):
        raise ValueError(
            f"k={k} neighbours need more examples in each set, got {len(real)} real "
            f"ones and {len(samples)} samples"
        )
    # The nearest of all is the example itself.
    real_radius = nearest(real, real, k + 1)[0][:, -1]
    sample_radius = nearest(samples, samples, k + 1)[0][:, -1]
    balls = np.zeros(len(samples))  # Of real examples, around each sample.
    in_sample_ball, holds_sample = np.zeros((2, len(real)), bool)
    for start in range(0, len(real), ROWS):
        rows = slice(start, start + ROWS)
        d = distances(real[rows], samples)
        inside = d <= real_radius[rows, None]
        balls += inside.sum(0)
        holds_sample[rows] = inside.any(1)
        in_sample_ball[rows] = (d <= sample_radius).any(1)
    return Prdc(
        precision=float((balls > 0).mean()),
        recall=float(in_sample_ball.mean()),
        density=float(balls.mean() / k),
        coverage=float(holds_sample.mean()),
    )


def memorisation(samples: np.ndarray, train: np.ndarray, held_out: np.ndarray) -> float:
    """Probability that a sample is nearer to the training set than a held-out example.

    Both distances are those to the nearest training example, ties count by half: 0.5 is
    what a perfect model has, 1 that of one which copies.

    Args:
        samples: Images or features [N, ...].
        train: What the model has seen, [M, ...].
        held_out: What it has not, [K, ...].

    Reference: Meehan et al., arXiv:2004.05675, Sec. 3.1, one minus their mean U.
    """
    of_samples, of_held_out = (
        np.sort(nearest(x, train)[0][:, 0]) for x in (samples, held_out)
    )
    below = np.searchsorted(of_held_out, of_samples, "left")
    upto = np.searchsorted(of_held_out, of_samples, "right")
    return float(1 - (below + upto).mean() / (2 * len(of_held_out)))
