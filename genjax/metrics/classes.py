"""What a classifier tells of samples."""

from typing import NamedTuple

import numpy as np

from genjax.metrics.modes import MIN_SHARE


class InceptionScore(NamedTuple):
    """Mean and standard deviation over splits of the samples."""

    mean: float
    standard_deviation: float


def inception_score(probabilities: np.ndarray, num_splits: int = 10) -> InceptionScore:
    """exp of the mean KL(p(y | x) || p(y)), from 1 to the number of classes.

    Args:
        probabilities: p(y | x) of each sample, [N, K], rows that sum to 1.
        num_splits: Parts of the samples, in their order, each with a p(y) of its own;
            at most N.

    Raises:
        ValueError: If rows are no distributions, or there are too few.

    Reference: Salimans et al., arXiv:1606.03498, Sec. 4.
    """
    from scipy.special import rel_entr  # A fifth of a second, which training can save.

    p = check_probabilities(probabilities)
    if not 1 <= num_splits <= len(p):
        raise ValueError(f"num_splits must be from 1 to {len(p)}, got {num_splits}")
    scores = [
        np.exp(rel_entr(part, part.mean(axis=0)).sum(axis=1).mean())
        for part in np.array_split(p, num_splits)
    ]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


class ClassCoverage(NamedTuple):
    """How samples spread over the classes of labelled data.

    Attributes:
        shares: Of the samples, [K].
        kl: KL(shares || the data's), nats; infinite for a class the data lack.
        missing: Classes of the data with less than a twentieth of their due.
    """

    shares: np.ndarray
    kl: float
    missing: int


def class_coverage(labels: np.ndarray, data_labels: np.ndarray) -> ClassCoverage:
    """Compares the classes that a classifier reads in samples with those of the data.

    Args:
        labels: Of the samples, int [N] from 0.
        data_labels: Of the data, int [M] from 0.
    """
    from scipy.special import rel_entr

    size = 1 + max(labels.max(), data_labels.max())
    shares, due = (
        np.bincount(x, minlength=size) / len(x) for x in (labels, data_labels)
    )
    missing = (due > 0) & (shares < MIN_SHARE * due)
    return ClassCoverage(shares, float(rel_entr(shares, due).sum()), int(missing.sum()))


def check_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """The same in float64; raises ValueError unless rows [K] are distributions."""
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 2 or not len(p) or not np.allclose(p.sum(1), 1, atol=1e-3):
        raise ValueError(
            f"expected probabilities [N, K] whose rows sum to 1, got shape {p.shape} "
            f"and sums from {p.sum(-1).min(initial=1)} to {p.sum(-1).max(initial=0)}"
        )
    if p.min() < 0:
        raise ValueError(f"expected probabilities, got {p.min()}")
    return p
