"""Levels, bins and layouts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from genjax import images

LEVELS = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)


def test_all_levels_survive_the_way_to_float_and_back():
    x = images.to_float(jnp.asarray(LEVELS))
    assert x.dtype == jnp.float32 and x.min() == -1 and x.max() == 1
    np.testing.assert_array_equal(images.to_uint8(x), LEVELS)


def test_floats_outside_the_range_are_clipped_to_it():
    x = images.to_uint8(jnp.array([-3.0, -1.001, 1.001, 3.0]))
    assert x.tolist() == [0, 0, 255, 255]


def test_scaling_twice_is_refused():
    with pytest.raises(ValueError, match="float32"):
        images.to_float(jnp.zeros((1, 2, 2, 1)))
    with pytest.raises(ValueError, match="float32"):
        images.dequantize(jnp.zeros((1, 2, 2, 1)), jax.random.key(0))


def test_dequantized_levels_stay_in_their_bins_and_fill_them():
    """Level k becomes uniform on [k, k + 1) / 128 - 1: variance (1 / 128)^2 / 12."""
    many = jnp.repeat(jnp.asarray(LEVELS), 400, axis=0)
    x = images.dequantize(many, jax.random.key(0))
    np.testing.assert_array_equal(jnp.floor((x + 1) * 128), many.astype(jnp.float32))
    inside = np.asarray((x + 1) * 128 - many)
    assert abs(inside.mean() - 0.5) < 4 * np.sqrt(1 / 12 / inside.size)
    assert abs(inside.var() * 12 - 1) < 0.02


def test_grid_puts_images_in_rows_with_white_between():
    pictures = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones(
        (1, 2, 3, 1), np.uint8
    )
    grid = images.grid(pictures)
    assert grid.shape == (2 * 3 + 1, 3 * 4 + 1, 1)
    assert grid[1, 1, 0] == 0 and grid[1, 5, 0] == 1 and grid[4, 1, 0] == 3
    assert (grid[0] == 255).all() and (grid[4:6, 9:12] == 255).all()


def test_small_pictures_grow_by_whole_factors(tmp_path):
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    images.save_png(tmp_path / "a" / "b.png", picture, min_side=5)
    read = np.asarray(Image.open(tmp_path / "a" / "b.png"))
    assert read.shape == (6, 6, 3)
    np.testing.assert_array_equal(read[::3, ::3], picture)
