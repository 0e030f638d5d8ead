"""Recurrent layers against loops over pixels, and what a pixel sees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.networks import pixelrnn
from genjax.networks.pixelrnn import DiagonalBiLSTM, PixelRNN, RowLSTM


def random_params(module, x):
    """Parameters of which none is zero."""
    random = np.random.RandomState(1)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.tree.map(
        lambda s: jnp.float32(0.3 * random.standard_normal(s.shape)), shapes
    )


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def cell_of(gates, cell):
    """One LSTM unit by unit: gates in the order out, forget, in, new."""
    d = len(cell)
    state, new_cell = np.zeros(d), np.zeros(d)
    for j in range(d):
        o, f, i, g = (gates[k * d + j] for k in range(4))
        new_cell[j] = sigmoid(f) * cell[j] + sigmoid(i) * np.tanh(g)
        state[j] = sigmoid(o) * np.tanh(new_cell[j])
    return state, new_cell


def from_corner(x, enter, bias, recur):
    """States [H, W, D] of an LSTM that starts in the upper left corner, by a loop."""
    h, w, _ = x.shape
    d = len(bias) // 4
    states, cells = np.zeros((h, w, d)), np.zeros((h, w, d))
    for r in range(h):
        for c in range(w):
            left = states[r, c - 1] if c else np.zeros(d)
            above = states[r - 1, c] if r else np.zeros(d)
            gates = x[r, c] @ enter + bias + left @ recur[:d] + above @ recur[d:]
            cell = cells[r, c - 1] if c else np.zeros(d)
            states[r, c], cells[r, c] = cell_of(gates, cell)
    return states


@pytest.mark.parametrize("size", [(3, 5), (4, 2)])
def test_diagonals_at_once_are_a_loop_over_pixels(size):
    """From the right: the loop on the mirrored map, mirrored back, a row lower."""
    x = jax.random.normal(jax.random.key(2), (2, *size, 6))
    module = DiagonalBiLSTM(features=3)
    params = random_params(module, x)
    found = jax.jit(module.apply)(params, x)
    p = {k: np.float64(v) for k, v in params["params"].items()}
    for image, result in zip(np.float64(x), found, strict=True):
        one, other = (
            from_corner(m, p["enter"][k], p["bias"][k], p["recur"][k])
            for k, m in enumerate((image, image[:, ::-1]))
        )
        states = one.copy()
        states[1:] += other[:-1, ::-1]
        expected = image + states @ p["out"] + p["out_bias"]
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def test_rows_at_once_are_a_loop_over_pixels():
    x = jax.random.normal(jax.random.key(2), (1, 3, 4, 6))
    module = RowLSTM(features=3)
    params = random_params(module, x)
    p = {k: np.float64(v) for k, v in params["params"].items()}
    image, recur = np.float64(x[0]), p["recur"].reshape(3, 3, 12)
    states, cells = np.zeros((3, 4, 3)), np.zeros((3, 4, 3))
    for r in range(3):
        for c in range(4):
            gates = p["bias"] + image[r, c] @ p["enter"][1]
            if c:
                gates = gates + image[r, c - 1] @ p["enter"][0]
            for tap in range(3):
                if r and 0 <= c + tap - 1 < 4:
                    gates = gates + states[r - 1, c + tap - 1] @ recur[tap]
            cell = cells[r - 1, c] if r else np.zeros(3)
            states[r, c], cells[r, c] = cell_of(gates, cell)
    expected = image + states @ p["out"] + p["out_bias"]
    found = jax.jit(module.apply)(params, x)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_skewed_rows_move_by_their_number():
    x = jnp.arange(1, 13).reshape(3, 4, 1)
    expected = [
        [1, 2, 3, 4, 0, 0],
        [0, 5, 6, 7, 8, 0],
        [0, 0, 9, 10, 11, 12],
    ]
    np.testing.assert_array_equal(pixelrnn.skew(x)[..., 0], expected)
    np.testing.assert_array_equal(pixelrnn.unskew(pixelrnn.skew(x), 4), x)


def influences(module, params, shape):
    """bool [S, S]: whether site i has a gradient in site j, sites in raster order."""
    # One image may have a site whose rectified units are all off.
    sites = shape[0] * shape[1] * module.num_groups
    x = jax.random.normal(jax.random.key(3), (9, sites, shape[-1] // module.num_groups))

    def outputs(x):
        return module.apply(params, x.reshape(1, *shape)).reshape(sites, -1)

    jacobian = jax.jit(jax.vmap(jax.jacobian(outputs)))(x)
    return np.abs(jacobian).max(axis=(0, 2, 4)) > 0


@pytest.mark.parametrize("layer", pixelrnn.LAYERS)
@pytest.mark.parametrize(("channels", "groups"), [(3, 3), (3, 1)])
def test_a_site_sees_all_sites_before_it_and_no_other(layer, channels, groups):
    sizes = dict(num_channels=channels, num_groups=groups, num_outputs=6)
    sizes.update(num_layers=2, features=12, out_features=18)
    module = PixelRNN(layer=layer, **sizes)
    params = random_params(module, jnp.zeros((1, 3, 4, channels)))
    seen = influences(module, params, (3, 4, channels))
    np.testing.assert_array_equal(seen, np.tri(len(seen), k=-1, dtype=bool))


def test_blind_spots_on_a_wide_image_are_those_that_the_docstring_says(monkeypatch):
    """With a window of 3: the last pixel of the row above for the diagonal layers,
    except where the window reaches it; more than that for one layer of rows.
    """
    monkeypatch.setattr(pixelrnn, "WINDOW", 3)
    blind = {}
    for layer in pixelrnn.LAYERS:
        module = PixelRNN(
            features=6, num_channels=1, num_outputs=1, num_layers=1, layer=layer
        )
        params = random_params(module, jnp.zeros((1, 3, 6, 1)))
        seen = influences(module, params, (3, 6, 1))
        assert not np.triu(seen).any()
        blind[layer] = np.tri(18, k=-1, dtype=bool) & ~seen
    expected = np.zeros((18, 18), bool)
    for row in (1, 2):
        expected[6 * row : 6 * row + 4, 6 * row - 1] = True
    np.testing.assert_array_equal(blind["diagonal_bilstm"], expected)
    assert blind["row_lstm"].sum() > expected.sum()


@pytest.mark.parametrize("layer", pixelrnn.LAYERS)
@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (3, 3), (3, 1)])
def test_steps_give_what_the_whole_network_gives(layer, channels, groups):
    sizes = dict(num_channels=channels, num_groups=groups, num_outputs=6)
    module = PixelRNN(features=6, out_features=9, num_layers=2, layer=layer, **sizes)
    x = jax.random.normal(jax.random.key(3), (1, 4, 5, channels))
    params = random_params(module, x)
    whole = jax.jit(module.apply)(params, x)[0].reshape(4, 5, groups, -1)

    @jax.jit
    def row_fn(cache, row, above):
        return module.apply(params, cache, row, above, method="next_row")

    @functools.partial(jax.jit, static_argnums=2)
    def step(cache, column, group, last):
        return module.apply(params, cache, column, group, last, method="step")

    cache, nothing, image = module.start(5), jnp.zeros(channels), x[0]
    for row in range(4):
        above = image[row - 1] if row else jnp.zeros_like(image[0])
        cache = row_fn(cache, row, above)
        for column in range(5):
            last = image[row, column - 1] if column else nothing
            for group in range(groups):
                found, cache = step(cache, column, group, last)
                expected = whole[row, column, group]
                np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
                last = nothing.at[: group + 1].set(image[row, column, : group + 1])
