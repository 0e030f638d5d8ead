"""Frechet distances against closed forms, scipy and torchmetrics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from genjax.metrics.frechet import (
    distance_of_samples,
    frechet_distance,
    frechet_infinity,
    pixel_distance,
)
from genjax.metrics.moments import moments


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


def test_a_rank_below_the_size_in_both_arguments():
    """Two sets of 20 in 50 dimensions, either way round, and each to itself."""
    a, b = np.random.default_rng(0).standard_normal((2, 20, 50))
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # The eigenvalues of cov_a cov_b that are not zero are those of M M^T.
    m = (a - a.mean(0)) @ (b - b.mean(0)).T / 19
    root = np.linalg.svd(m, compute_uv=False).sum()
    shift = np.square(a.mean(0) - b.mean(0)).sum()
    expected = shift + np.trace(cov_a) + np.trace(cov_b) - 2 * root
    assert distance_of_samples(a, b) == pytest.approx(expected, rel=1e-6)
    assert distance_of_samples(b, a) == pytest.approx(expected, rel=1e-6)
    assert distance_of_samples(a, a) == pytest.approx(0, abs=1e-5)


def test_float32_on_an_accelerator_is_near_float64():
    """A spectrum over six decades, as features have."""
    random = np.random.default_rng(0)
    scales = np.geomspace(1, 1e-3, 300)
    a, b = random.standard_normal((2, 900, 300)) * scales
    b = 1.1 * b + 0.1 * scales
    sides = [(x.mean(0), np.cov(x, rowvar=False)) for x in (a, b)]
    exact = frechet_distance(*sides[0], *sides[1])
    single = [jnp.asarray(x, jnp.float32) for side in sides for x in side]
    found = jax.jit(frechet_distance)(*single)
    assert found.dtype == jnp.float32
    assert float(found) == pytest.approx(exact, abs=3e-6 * np.trace(sides[0][1]))
    assert exact > 0.1


def test_fid_of_torchmetrics_on_the_same_features():
    torch = pytest.importorskip("torch", reason="needs the bench extra")
    image = pytest.importorskip("torchmetrics.image.fid", reason="needs it too")

    class Same(torch.nn.Module):
        num_features = 8

        def forward(self, x):
            return x

    a, b = np.random.default_rng(0).standard_normal((2, 60, 8)).astype(np.float32)
    theirs = image.FrechetInceptionDistance(feature=Same())
    theirs.update(torch.tensor(a), real=True)
    theirs.update(torch.tensor(2 * b), real=False)
    expected = float(theirs.compute())
    assert distance_of_samples(a, 2 * b) == pytest.approx(expected, rel=1e-3)


def test_the_distance_of_two_halves_falls_as_one_over_n():
    """Of sizes from 250 to 16,000, n d stays the same."""
    x = np.random.default_rng(0).standard_normal((2, 64_000, 4))
    sizes = [250, 1000, 4000, 16_000]
    found = [
        np.mean([distance_of_samples(*x[:, i : i + n]) for i in range(0, 64_000, n)])
        for n in sizes
    ]
    scaled = np.array(found) * sizes
    np.testing.assert_allclose(scaled, scaled.mean(), rtol=0.25)


def test_infinitely_many_samples_are_found_by_a_line_through_one_over_n():
    """A shift by 0.5 in 20 dimensions is 5; 1000 samples see 0.26 more, 100 1.3."""
    random = np.random.default_rng(0)
    samples = random.standard_normal((4000, 20))
    reference = moments(0.5 + random.standard_normal((50_000, 20)))
    sizes = [100, 150, 200, 300, 1000]
    found = [frechet_infinity(samples, reference, sizes, seed=s) for s in range(20)]
    assert np.mean(found) == pytest.approx(5, abs=0.15)
    with pytest.raises(ValueError, match="from 2 to 4000"):
        frechet_infinity(samples, reference, [10, 5000])
    with pytest.raises(ValueError, match="two or more"):
        frechet_infinity(samples, reference, [10, 10])


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"of one D, got shapes \[\(2,\), \(3, 3\)"):
        frechet_distance(np.zeros(2), np.eye(3), np.zeros(2), np.eye(2))


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
