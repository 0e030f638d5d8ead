"""Distances and units against closed forms and scipy."""

import math

import numpy as np
import pytest
import scipy.linalg

from genjax.metrics.frechet import (
    distance_of_samples,
    frechet_distance,
    pixel_distance,
)
from genjax.metrics.likelihood import bits_per_dim, in_bits_per_dim


def covariance(seed: int, rank: int, size: int = 5) -> np.ndarray:
    factor = np.random.RandomState(seed).standard_normal((size, rank))
    return factor @ factor.T


@pytest.mark.parametrize("rank", [5, 2])
def test_frechet_distance_equals_scipys_matrix_root(rank):
    """Singular covariances included: a rank of 2 in 5 dimensions."""
    a, b = covariance(0, 5), covariance(1, rank)
    mean = np.arange(5.0)
    root = scipy.linalg.sqrtm(a @ b).real
    expected = mean @ mean + np.trace(a + b - 2 * root)
    distance = frechet_distance(mean, a, np.zeros(5), b)
    assert distance == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_commuting_gaussians():
    """Diagonal covariances: |m|^2 + sum (sigma_a - sigma_b)^2."""
    a, b = np.array([1.0, 4.0, 0.0]), np.array([9.0, 4.0, 1.0])
    distance = frechet_distance(np.ones(3), np.diag(a), np.zeros(3), np.diag(b))
    assert distance == pytest.approx(3 + 4 + 0 + 1)


def test_a_set_is_at_no_distance_from_itself_and_a_shift_counts_squared():
    x = np.random.RandomState(0).standard_normal((50, 2, 2))
    assert distance_of_samples(x, x) == pytest.approx(0, abs=1e-6)
    assert distance_of_samples(x, x + 3) == pytest.approx(4 * 9)


def test_a_fair_coin_per_pixel_is_one_bit():
    assert bits_per_dim(64 * math.log(2), 64) == pytest.approx(1)
    results = {"nats/nll": {"value": 64 * math.log(2), "standard_error": 6.4}}
    added = in_bits_per_dim(results, 64)["bits_per_dim/nll"]
    assert added["value"] == pytest.approx(1)
    assert added["standard_error"] == pytest.approx(0.1 / math.log(2))


def test_pixel_distance_averages_large_images_over_blocks():
    """A constant shift of 51 levels is 0.4 in [-1, 1]: 0.16 for each number left.

    28 x 34 pixels shrink by 2 and by 3, to 14 x 12 of three channels. Noise that adds
    up to zero over 2 x 3 pixels vanishes.
    """
    random = np.random.RandomState(0)
    large = random.randint(50, 150, size=(40, 28, 34, 3)).astype(np.uint8)
    shifted = large + np.uint8(51)
    assert pixel_distance(large, shifted) == pytest.approx(0.16 * 14 * 12 * 3)
    checker = np.indices((28, 34)).sum(0)[..., None] % 2 * 2 - 1
    checker[:, 33:] = 0  # The last block is one pixel wide.
    assert pixel_distance(large + checker, large + np.int64(0)) < 1e-6
    with pytest.raises(ValueError, match="differ in shape"):
        pixel_distance(large, shifted[:, 1:])
