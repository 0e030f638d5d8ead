"""Moments of parts against those of the whole."""

import numpy as np
import pytest

from genjax.metrics.moments import merge, moments


@pytest.mark.parametrize("sizes", [(1, 1), (3, 20, 7), (1, 0, 29)])
def test_merged_parts_have_the_moments_of_the_whole(sizes):
    """Against NumPy's own, far from the origin, where sums of squares would cancel."""
    x = 1e6 + np.random.default_rng(0).standard_normal((sum(sizes), 2, 3))
    ends = np.cumsum(sizes)[:-1]
    whole = merge(moments(part) for part in np.split(x, ends) if len(part))
    flat = x.reshape(len(x), -1)
    assert whole.count == len(x)
    np.testing.assert_allclose(whole.mean, flat.mean(0), rtol=1e-15)
    covariance = np.cov(flat, rowvar=False)
    np.testing.assert_allclose(whole.covariance, covariance, atol=1e-9)


def test_float32_features_are_summed_in_float64():
    x = np.float32(1000 + np.random.default_rng(0).standard_normal((5000, 3)))
    expected = np.cov(np.float64(x), rowvar=False)
    np.testing.assert_allclose(moments(x).covariance, expected, rtol=1e-12)


def test_what_cannot_be_merged_is_refused():
    with pytest.raises(ValueError, match="one size"):
        merge([moments(np.zeros((2, 3))), moments(np.zeros((2, 4)))])
    with pytest.raises(ValueError, match="one size"):
        merge([])
    with pytest.raises(ValueError, match="two examples, got 1"):
        _ = moments(np.zeros((1, 3))).covariance
