"""Walks against rotations, quantiles and sums that others compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, stats
from scipy.spatial.transform import Rotation, Slerp

from genjax import latents

T = np.linspace(0, 1, 9)


def unit_vectors(seed, shape):
    x = np.random.default_rng(seed).standard_normal((2, *shape))
    x /= np.sqrt(np.sum(x**2, axis=tuple(range(1, x.ndim)), keepdims=True))
    return np.float32(x)


def test_lerp_is_numpys_interpolation_of_each_number():
    a, b = unit_vectors(0, (3, 2))
    walk = latents.lerp(a, b, T)
    assert walk.shape == (9, 3, 2)
    for i in np.ndindex(3, 2):
        expected = np.interp(T, [0, 1], [a[i], b[i]])
        np.testing.assert_allclose(walk[:, *i], expected, atol=1e-6)
    whole = jnp.array([0, 10])
    np.testing.assert_allclose(latents.lerp(whole, whole[::-1], 0.25), [2.5, 7.5])


@pytest.mark.parametrize("shape", [(2,), (5,), (4, 4, 3)])
def test_slerp_of_unit_vectors_is_the_rotation_that_takes_one_to_the_other(shape):
    """exp(t w (v u^T - u v^T)) turns by t w in the plane of u = a and v, the part of b
    at right angles to a: the matrix exponential is scipy's.
    """
    a, b = unit_vectors(1, shape)
    u = np.float64(a.ravel())
    v = b.ravel() - (b.ravel() @ u) * u
    w = np.arctan2(np.linalg.norm(v), b.ravel() @ u)
    v /= np.linalg.norm(v)
    generator = np.outer(v, u) - np.outer(u, v)
    expected = [(linalg.expm(t * w * generator) @ u).reshape(shape) for t in T]
    walk = latents.slerp(a, b, T)
    np.testing.assert_allclose(walk, expected, atol=2e-6)
    np.testing.assert_allclose(walk[0], a, atol=1e-6)
    np.testing.assert_allclose(walk[-1], b, atol=1e-6)


def test_slerp_of_quaternions_is_scipys():
    a, b = unit_vectors(2, (4,))
    b = b * np.sign(a @ b)  # scipy goes the short way round, as b and -b are one turn.
    expected = Slerp([0, 1], Rotation.from_quat([a, b]))(T).as_quat()
    walk = np.array(latents.slerp(a, b, T))
    walk *= np.sign(np.sum(walk * expected, -1, keepdims=True))
    np.testing.assert_allclose(walk, expected, atol=2e-6)


def test_slerp_of_gaussian_draws_keeps_their_length_where_lerp_shortens():
    """Independent normals in D dimensions have length about sqrt(D), at right angles:
    the straight line's middle has length sqrt(D / 2), the arc's sqrt(D).
    """
    a, b = jax.random.normal(jax.random.key(0), (2, 10_000))
    for path, expected in (latents.slerp, 1.0), (latents.lerp, 0.5**0.5):
        length = jnp.linalg.norm(path(a, b, 0.5)) / 100
        assert abs(length - expected) < 0.03


@pytest.mark.parametrize("angle", [0.0, 1e-7, 1e-4, 1e-2])
def test_slerp_becomes_lerp_as_the_angle_closes(angle):
    """For vectors at angle w the paths part by less than w^2, and nothing blows up."""
    a = np.float32([3.0, 0.0])
    b = np.float32([3 * np.cos(angle), 3 * np.sin(angle)])
    walk = jax.jit(latents.slerp)(a, b, T)
    np.testing.assert_allclose(walk, latents.lerp(a, b, T), atol=3 * angle**2 + 1e-6)
    # The turn itself is right to single precision, also where cos(w) rounds to 1.
    turned = np.arctan2(np.float64(walk[:, 1]), np.float64(walk[:, 0]))
    np.testing.assert_allclose(turned, T * angle, rtol=1e-5, atol=1e-12)
    grad = jax.grad(lambda b: latents.slerp(a, b, 0.3).sum())(jnp.float32([3.0, 0.1]))
    assert np.isfinite(grad).all()


def test_slerp_between_nearly_opposite_vectors_still_turns_evenly():
    """Where 1 / sin(w) is 1,000 and the cosine has four digits of w - pi left."""
    a, b = np.float32([1.0, 0.0]), np.float32([-np.cos(1e-3), np.sin(1e-3)])
    walk = np.float64(latents.slerp(a, b, T))
    np.testing.assert_allclose(np.linalg.norm(walk, axis=1), 1, atol=2e-3)
    turned = np.arctan2(walk[:, 1], walk[:, 0])
    np.testing.assert_allclose(turned, T * (np.pi - 1e-3), atol=2e-3)


def test_slerp_from_nothing_is_finite():
    walk = latents.slerp(np.zeros(3, np.float32), np.float32([0, 0, 2]), T)
    assert np.isfinite(walk).all()
    np.testing.assert_allclose(walk[::8], [[0, 0, 0], [0, 0, 2]], atol=1e-6)


@pytest.mark.parametrize("path", [latents.lerp, latents.slerp])
def test_a_number_gives_one_point_and_a_row_gives_a_row(path):
    a, b = unit_vectors(3, (2, 3))
    np.testing.assert_allclose(path(a, b, 0.25), path(a, b, T)[2], atol=1e-6)
    assert path(a, b, 0.25).shape == (2, 3)
    for wrong in ((a, b[:1], 0.5), (a, b, np.zeros((2, 2)))):
        with pytest.raises(ValueError, match="of one shape and t a number"):
            path(*wrong)


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_the_grid_lies_at_scipys_quantiles_as_in_a_plot(n):
    grid = np.asarray(latents.gaussian_grid(n)).reshape(n, n, 2)
    quantiles = stats.norm.ppf((np.arange(n) + 0.5) / n)
    for row in range(n):
        np.testing.assert_allclose(grid[row, :, 0], quantiles, atol=1e-5)
        np.testing.assert_allclose(grid[row, :, 1], quantiles[-1 - row], atol=1e-5)


def test_each_point_of_the_grid_is_the_median_of_an_equal_share():
    """scipy's CDF of the sorted quantiles climbs by 1 / n, from 1 / 2n."""
    quantiles = np.unique(latents.gaussian_grid(7)[:, 0])
    shares = stats.norm.cdf(quantiles)
    np.testing.assert_allclose(np.diff(shares), 1 / 7, atol=1e-6)
    assert shares[0] == pytest.approx(1 / 14, abs=1e-6)
    with pytest.raises(ValueError, match="at least 1"):
        latents.gaussian_grid(0)


def test_arithmetic_by_hand():
    """1 - 5 + 4 = 0 from the means, and the same of 2 x + 7: twice that and a shift."""
    a, b, c = jnp.array([0.0, 2.0]), jnp.array([4.0, 6.0]), jnp.array([1.0, 3.0, 8.0])
    a, b, c = (jnp.stack([x, 2 * x + 7], axis=-1) for x in (a, b, c))
    np.testing.assert_allclose(latents.arithmetic(a, b, c), [0, 7], atol=1e-6)
    with pytest.raises(ValueError, match="one shape"):
        latents.arithmetic(a, b, c[:, :1])


def test_traverse_changes_one_number_at_a_time():
    start, own = jnp.array([1.0, 2.0, 3.0]), [[-3.0, 3.0], [5.0, 6.0]]
    walk = latents.traverse(start, [2, 0], own)
    np.testing.assert_array_equal(walk[1], [[5, 2, 3], [6, 2, 3]])
    walk = latents.traverse(start, [2, 0], [-3.0, 3.0])
    assert walk.tolist() == [[[1, 2, -3], [1, 2, 3]], [[-3, 2, 3], [3, 2, 3]]]
    with pytest.raises(ValueError, match=r"\[0, 3\), got \[-1, 3\]"):
        latents.traverse(jnp.zeros(3), [-1, 0, 3], [0.0])
    with pytest.raises(ValueError, match="a vector"):
        latents.traverse(jnp.zeros((3, 1)), [0], [0.0])
