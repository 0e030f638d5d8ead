"""Distortions whose effect is known, on real digits."""

import numpy as np
import pytest
from scipy.ndimage import rotate
from sklearn.datasets import load_digits

from genjax.metrics import distortions
from genjax.metrics.frechet import distance_of_samples


@pytest.fixture(scope="module")
def digits():
    return np.uint8(load_digits().images[:600, :, :, None] * 15)


@pytest.mark.parametrize("name", distortions.DISTORTIONS)
def test_each_keeps_shapes_and_grows(name, digits):
    """Nothing at strength 0; in pixels the distance of the digits grows with it."""
    fn, levels = distortions.DISTORTIONS[name]
    before = digits.copy()
    nothing = fn(digits, 0.0, np.random.default_rng(0))
    np.testing.assert_array_equal(nothing, before)
    found = []
    for strength in levels:
        out = fn(digits, strength, np.random.default_rng(0))
        assert out.shape == digits.shape and out.dtype == np.uint8
        found.append(distance_of_samples(out, digits))
    np.testing.assert_array_equal(digits, before)  # They work on copies.
    assert len(found) == 4 and found == sorted(found) and found[0] > 0


def test_noise_is_normal_around_the_middle():
    black = np.zeros((50, 20, 20, 3), np.uint8)
    out = distortions.noise(black, 0.5, np.random.default_rng(0))
    assert out.mean() == pytest.approx(127.5 / 2, abs=0.5)
    assert out.std() == pytest.approx(32, rel=0.05)


def test_blur_keeps_the_mean_and_spreads_a_point():
    """A point becomes a Gaussian whose variance along each axis is sigma^2."""
    x = np.zeros((1, 41, 41, 1), np.uint8)
    x[0, 18:23, 18:23] = 255
    out = distortions.blur(x, 0.1, np.random.default_rng(0))[0, ..., 0] * 1.0
    for axis in (0, 1):
        variance = out.sum(axis) @ (np.arange(41) - 20) ** 2 / out.sum()
        assert variance == pytest.approx(4.1**2 + 2, rel=0.05)  # 2 of the square.
    assert out.sum() == pytest.approx(25 * 255, rel=0.03)


def test_rectangles_are_black_and_of_their_size():
    """Of a white image about 1 - (1 - s^2)^5 is black, less at the border."""
    white = np.full((400, 40, 40, 1), 255, np.uint8)
    out = distortions.rectangles(white, 0.2, np.random.default_rng(0))
    assert set(np.unique(out)) == {0, 255}
    share = (out == 0).mean()
    most = 1 - (1 - 0.2**2) ** 5
    assert 0.8 * most < share < most


def test_swirl_is_a_rotation_near_its_centre():
    """By SciPy's own rotation, where the angle is nearly constant."""
    y, x = np.mgrid[:81, :81]
    smooth = np.uint8(127 + 60 * np.sin(x / 9) + 60 * np.cos(y / 7))[None, ..., None]

    class Middle:
        def uniform(self, low, high, size):
            return np.full(2, 40.0) / 81

    out = distortions.swirl(smooth, 0.5, Middle())[0, ..., 0] * 1.0
    turned = rotate(smooth[0, ..., 0] * 1.0, np.degrees(0.5), reshape=False, order=1)
    back = rotate(smooth[0, ..., 0] * 1.0, -np.degrees(0.5), reshape=False, order=1)
    near = (slice(37, 44), slice(37, 44))
    errors = [np.abs(out[near] - r[near]).mean() for r in (turned, back)]
    assert min(errors) < 4 < max(errors)
    assert np.abs(out[:3] - smooth[0, :3, :, 0]).max() < 12  # Far off little turns.


def test_salt_and_pepper_hits_its_share():
    grey = np.full((20, 30, 30, 3), 100, np.uint8)
    out = distortions.salt_and_pepper(grey, 0.3, np.random.default_rng(0))
    shares = [(out[..., 0] == level).mean() for level in (0, 100, 255)]
    np.testing.assert_allclose(shares, [0.15, 0.7, 0.15], atol=0.01)
    np.testing.assert_array_equal(out[..., 0], out[..., 2])


def test_contamination_replaces_whole_images(digits):
    foreign = np.full((7, 8, 8, 1), 1, np.uint8)
    out = distortions.contamination(digits, 0.25, np.random.default_rng(0), foreign)
    replaced = (out == 1).all(axis=(1, 2, 3))
    assert replaced.sum() == 150
    np.testing.assert_array_equal(out[~replaced], digits[~replaced])
