"""Distances of paired features against SciPy's, which are sums over the features."""

import numpy as np
import pytest
from scipy.spatial import distance

from genjax.metrics.pairs import feature_l1, feature_l2


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize(
    "ours, theirs, scale",
    [(feature_l1, distance.cityblock, 12), (feature_l2, distance.euclidean, 12**0.5)],
)
def test_distances_are_scipys_over_what_they_grow_by(ours, theirs, scale, dtype):
    x, y = (255 * np.random.default_rng(0).random((2, 7, 12))).astype(dtype)
    rows = zip(x.astype(np.float64), y.astype(np.float64), strict=True)
    expected = [theirs(a, b) / scale for a, b in rows]
    found = ours(x, y)
    assert found.shape == (7,) and found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_array_equal(ours(x, x), np.zeros(7))


@pytest.mark.parametrize("fn", [feature_l1, feature_l2])
def test_a_constant_difference_is_the_distance_for_every_size(fn):
    for d in (1, 3, 100):
        x = np.arange(2.0 * d).reshape(2, d)
        np.testing.assert_allclose(fn(x, x - 2.5), [2.5, 2.5], rtol=1e-12)


@pytest.mark.parametrize("fn", [feature_l1, feature_l2])
@pytest.mark.parametrize(
    "x, y",
    [((3, 4), (1, 4)), ((3, 4), (3, 1)), ((3, 4), (4,)), ((4,), (4,)), ((3, 0),) * 2],
)
def test_features_that_are_no_pairs_are_refused(fn, x, y):
    """Among them shapes that NumPy would broadcast."""
    with pytest.raises(ValueError, match=r"both \[N, D\].* got \("):
        fn(np.zeros(x), np.zeros(y))
