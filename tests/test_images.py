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


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_captions_stand_beside_their_rows_and_above_their_columns(channels):
    """Dark pixels in the margins are text; a missing caption leaves its place white."""
    cells = np.zeros((2, 3, 8, 4, channels), np.uint8)
    cells[:] = np.array([[10, 20, 30], [40, 50, 255]])[..., None, None, None]
    cells[..., 3:] = 255  # Opaque.
    rows, columns = ["", "the second row"], ["", "", "third"]
    table = images.captioned(cells, rows, columns)
    assert table.dtype == np.uint8 and table.shape[2] == 3
    bare = images.captioned(cells, rows)
    top = table.shape[0] - bare.shape[0]
    np.testing.assert_array_equal(table[top:], bare)
    factor = 12  # 48 pixels at least, from 4.
    height, width = 2 * (8 * factor + 2) + 2, 3 * (4 * factor + 2) + 2
    assert bare.shape[0] == height
    left = bare.shape[1] - width
    inside = bare[:, left:]
    for row, column in np.ndindex(2, 3):
        middle = (8 * row + 4) * factor + 2 * row, (4 * column + 2) * factor
        expected = cells[row, column, 0, 0, 0]
        assert (inside[middle[0] + 2, middle[1] + 2 * column + 2] == expected).all()
    text = np.argwhere(bare[:, :left, 0] < 128)
    assert text[:, 0].min() > height / 2 and np.ptp(text[:, 1]) > left / 2
    text = np.argwhere(table[:top, :, 0] < 128)
    assert text[:, 1].min() > left + width * 2 / 3


def test_images_grow_until_their_captions_fit():
    cells = np.zeros((1, 2, 8, 8, 1), np.uint8)
    narrow = images.captioned(cells, ["a"], ["x", "y"])
    wide = images.captioned(cells, ["a"], ["x", "a very long caption of a column"])
    assert wide.shape[1] > 2 * narrow.shape[1]
    large = np.zeros((1, 2, 60, 60, 1), np.uint8)
    assert images.captioned(large, ["a"], ["x", "y"]).shape[0] < 100
    with pytest.raises(ValueError, match=r"1 rows and 2 columns .* 1 and 3 cap"):
        images.captioned(cells, ["a"], ["x", "y", "z"])


def test_small_pictures_grow_by_whole_factors(tmp_path):
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    images.save_png(tmp_path / "a" / "b.png", picture, min_side=5)
    read = np.asarray(Image.open(tmp_path / "a" / "b.png"))
    assert read.shape == (6, 6, 3)
    np.testing.assert_array_equal(read[::3, ::3], picture)
