"""Scores of distributions over classes that are known."""

import numpy as np
import pytest
from scipy.stats import entropy

from genjax.metrics.classes import class_coverage, inception_score


def test_inception_score_of_known_distributions():
    """Sure and even over K classes: K. All alike, or never sure: 1."""
    sure = np.tile(np.eye(7), (20, 1))
    assert inception_score(sure, 4) == pytest.approx((7, 0))
    assert inception_score(np.tile(np.eye(7)[:1], (9, 1)), 1) == pytest.approx((1, 0))
    assert inception_score(np.full((9, 7), 1 / 7), 3) == pytest.approx((1, 0))


def test_inception_score_is_the_exponential_of_the_mutual_information():
    """Two halves: KL of each by scipy, and the spread between them."""
    p = np.random.default_rng(0).dirichlet(np.ones(5), size=12)
    halves = []
    for part in (p[:6], p[6:]):
        information = entropy(part.mean(0)) - entropy(part, axis=1).mean()
        halves.append(np.exp(information))
    expected = np.mean(halves), np.std(halves)
    assert inception_score(p, 2) == pytest.approx(expected, rel=1e-10)


def test_inception_score_of_torchmetrics():
    torch = pytest.importorskip("torch", reason="needs the bench extra")
    image = pytest.importorskip("torchmetrics.image.inception", reason="needs it too")
    logits = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)

    class Same(torch.nn.Module):
        num_features = 6

        def forward(self, x):
            return x

    theirs = image.InceptionScore(feature=Same(), splits=1)
    theirs.update(torch.tensor(logits))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert inception_score(p, 1).mean == pytest.approx(float(theirs.compute()[0]))


@pytest.mark.parametrize(
    "bad, message",
    [
        (np.ones((3, 2)), "sum to 1"),
        (np.ones(3), "sum to 1"),
        (np.array([[2.0, -1.0]]), "expected probabilities"),
        (np.array([[np.nan, 1.0]]), "sum to 1"),
    ],
)
def test_what_is_no_distribution_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        inception_score(bad, 1)
    with pytest.raises(ValueError, match="from 1 to 7"):
        inception_score(np.eye(7), 8)


def test_class_coverage_counts_what_is_missing():
    """Of 4 even classes one is gone, and one has 1 of its due 25: below a twentieth."""
    data = np.repeat(np.arange(4), 25)
    labels = np.repeat(np.arange(4), [50, 49, 1, 0])
    found = class_coverage(labels, data)
    np.testing.assert_allclose(found.shares, [0.5, 0.49, 0.01, 0])
    assert found.kl == pytest.approx(entropy([0.5, 0.49, 0.01, 0], [0.25] * 4))
    assert found.missing == 2
    assert class_coverage(data, data).missing == 0
    assert class_coverage(data, data).kl == pytest.approx(0)
    assert class_coverage(data, labels[:99]).kl == np.inf
