"""Vector quantisation: by hand on three codes, and against scikit-learn's k-means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans

from genjax.losses import quantization

CODES = jnp.array([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0]])
# Two examples of two vectors. Nearest: 0 (squared distances 0.5 1.3 ...), 1; 2, 1.
Z = jnp.array([[[0.5, 0.5], [3.0, 1.0]], [[1.0, 3.0], [1.5, 0.0]]])
CHOSEN = np.array([[0, 1], [2, 1]])


def test_three_codes_by_hand():
    z_q, indices = quantization.quantize(Z, CODES)
    assert indices.dtype == jnp.int32
    np.testing.assert_array_equal(indices, CHOSEN)
    np.testing.assert_allclose(z_q, [[[0, 0], [2, 0]], [[0, 4], [2, 0]]], atol=1e-6)
    # Squared offsets: (.25 + .25) + (1 + 1) and (1 + 1) + (.25 + 0), over 4 numbers.
    for loss_fn in (quantization.codebook_loss, quantization.commitment_loss):
        np.testing.assert_allclose(loss_fn(Z, CODES, indices), [2.5 / 4, 2.25 / 4])


def test_gradients_go_straight_through_to_the_encoder_alone():
    """f(z_q) = sum(w z_q) has gradient w in z_q, so w in z and zero in the codes."""
    w = jnp.arange(8.0).reshape(Z.shape)
    to_z, to_codes = jax.grad(
        lambda z, codes: jnp.sum(w * quantization.quantize(z, codes)[0]), (0, 1)
    )(Z, CODES)
    np.testing.assert_array_equal(to_z, w)
    np.testing.assert_array_equal(to_codes, np.zeros((3, 2)))


def test_each_loss_moves_one_side():
    """Sum over examples of |z - e|^2 / 4: 2 (z - e) / 4 in z, or minus that, summed
    over the vectors that chose a code, in the code. Offsets z - e are (.5, .5) for
    code 0, (1, 1) and (-.5, 0) for code 1, (1, -1) for code 2.
    """

    def gradients(loss_fn):
        return jax.grad(lambda z, e: loss_fn(z, e, CHOSEN).sum(), (0, 1))(Z, CODES)

    to_z, to_codes = gradients(quantization.codebook_loss)
    np.testing.assert_array_equal(to_z, np.zeros(Z.shape))
    expected = -np.array([[0.5, 0.5], [0.5, 1.0], [1.0, -1.0]]) / 2
    np.testing.assert_allclose(to_codes, expected)
    to_z, to_codes = gradients(quantization.commitment_loss)
    offsets = np.array([[[0.5, 0.5], [1, 1]], [[1, -1], [-0.5, 0]]])
    np.testing.assert_allclose(to_z, offsets / 2)
    np.testing.assert_array_equal(to_codes, np.zeros((3, 2)))


@pytest.mark.parametrize("chunk", [2**24, 7 * 60, 1])
def test_nearest_is_the_smallest_distance(chunk, monkeypatch):
    """All distances in float64 by scipy, for one, several and single-code chunks."""
    monkeypatch.setattr(quantization, "CHUNK", chunk)
    z = jax.random.normal(jax.random.key(0), (3, 4, 5, 6))
    codes = jax.random.normal(jax.random.key(1), (17, 6))
    flat = np.asarray(z, np.float64).reshape(-1, 6)
    distances = cdist(flat, np.asarray(codes, np.float64))
    found = quantization.nearest(z, codes)
    assert found.shape == (3, 4, 5)
    np.testing.assert_array_equal(np.ravel(found), distances.argmin(1))


def test_of_equally_near_codes_the_first(monkeypatch):
    codes = jnp.ones((5, 2))
    for chunk in (2**24, 2):
        monkeypatch.setattr(quantization, "CHUNK", chunk)
        assert quantization.nearest(jnp.zeros((1, 2)), codes) == 0


def test_vectors_must_be_as_wide_as_codes():
    with pytest.raises(ValueError, match="width 2"):
        quantization.nearest(jnp.zeros((4, 3)), CODES)


def test_codebook_starts_at_vectors_of_the_batch():
    z = jnp.arange(24.0).reshape(2, 3, 4)
    once = quantization.initial_codebook(jax.random.key(0), z, 6)
    rows = np.asarray(z).reshape(-1, 4)
    np.testing.assert_array_equal(np.sort(once, axis=0), rows)
    more = quantization.initial_codebook(jax.random.key(0), z, 20)
    assert more.shape == (20, 4)
    assert all((rows == code).all(1).any() for code in np.asarray(more))


def test_ema_starts_at_its_codes_and_smooths_the_counts():
    """With counts 3, 1, 0 and epsilon 1, N is 4 (4, 2, 1) / (4 + 3)."""
    start = quantization.ema_start(CODES, 2.5)
    np.testing.assert_allclose(quantization.ema_codebook(start), CODES, rtol=1e-6)
    state = {"counts": jnp.array([3.0, 1.0, 0.0]), "sums": jnp.ones((3, 2))}
    codes = quantization.ema_codebook(state, epsilon=1.0)
    np.testing.assert_allclose(codes[:, 0], [7 / 16, 7 / 8, 7 / 4], rtol=1e-6)


def test_ema_codes_are_means_weighted_by_age():
    """One vector a batch for each of two codes: m / N = sum g^age z / sum g^age, where
    the start counts as a vector that is weighted by g^T / (1 - g).
    """
    decay, num_steps = 0.8, 30
    z = np.random.RandomState(0).normal(size=(num_steps, 2, 3))
    first = jnp.array([[1.0, 2.0, 3.0], [-3.0, -2.0, -1.0]])
    state = quantization.ema_start(first, 1.0)
    indices = jnp.arange(2)
    for batch in z:
        state = quantization.ema_update(state, jnp.asarray(batch), indices, decay=decay)
    ages = np.append(num_steps, np.arange(num_steps)[::-1])
    weights = decay**ages * np.append(1 / (1 - decay), np.ones(num_steps))
    expected = np.average(np.concatenate([first[None], z]), axis=0, weights=weights)
    np.testing.assert_allclose(quantization.ema_codebook(state), expected, rtol=1e-4)


def test_ema_settles_where_k_means_does():
    """With one fixed batch the fixed point is Lloyd's: codes are their cells' means."""
    random = np.random.RandomState(0)
    centres = 5 * random.normal(size=(4, 2))
    z = centres[random.randint(4, size=400)] + 0.3 * random.normal(size=(400, 2))
    kmeans = KMeans(4, init=centres, n_init=1, tol=0).fit(z)
    z = jnp.asarray(z, jnp.float32)

    @jax.jit
    def step(state):
        indices = quantization.nearest(z, quantization.ema_codebook(state))
        return quantization.ema_update(state, z, indices, decay=0.7)

    state = quantization.ema_start(jnp.asarray(centres + 0.5), 100.0)
    for _ in range(60):
        state = step(state)
    found = quantization.ema_codebook(state)
    np.testing.assert_allclose(found, kmeans.cluster_centers_, atol=1e-4)
    np.testing.assert_allclose(state["counts"], np.bincount(kmeans.labels_), rtol=1e-4)


def test_dead_codes_and_no_others_restart_in_the_batch():
    state = {"counts": jnp.array([3.0, 0.1, 0.5]), "sums": jnp.ones((3, 2))}
    new = quantization.restart_dead_codes(state, Z, jax.random.key(0), threshold=0.4)
    for name, values in state.items():
        np.testing.assert_array_equal(new[name][::2], values[::2])
    assert new["counts"][1] == pytest.approx(4 / 3)  # Four vectors, three codes.
    restarted = np.asarray(new["sums"][1] / new["counts"][1])
    offsets = np.abs(np.asarray(Z).reshape(-1, 2) - restarted)
    assert offsets.max(axis=1).min() < 1e-5
    none = quantization.restart_dead_codes(state, Z, jax.random.key(0), threshold=0)
    np.testing.assert_array_equal(none["sums"], state["sums"])


def test_restarts_bring_every_code_into_use():
    """Eight clusters; one code starts in the first, seven where nothing finds them."""
    random = np.random.RandomState(0)
    centres = 10 * random.normal(size=(8, 2))
    z = centres[np.arange(400) % 8] + 0.1 * random.normal(size=(400, 2))
    z = jnp.asarray(z, jnp.float32)
    start = quantization.ema_start(z[:1] + 1e3 * jnp.arange(8.0)[:, None], 50.0)

    @jax.jit
    def step(state, key, threshold):
        indices = quantization.nearest(z, quantization.ema_codebook(state))
        state = quantization.ema_update(state, z, indices, decay=0.9)
        return quantization.restart_dead_codes(state, z, key, threshold=threshold)

    used = {}
    for threshold in (0.0, 5.0):
        state = start
        for key in jax.random.split(jax.random.key(0), 60):
            state = step(state, key, threshold)
        indices = quantization.nearest(z, quantization.ema_codebook(state))
        used[threshold] = float(quantization.usage(indices, 8))
    assert used == {0.0: 1 / 8, 5.0: 1.0}


def test_perplexity_is_exp_of_scipys_entropy():
    indices = jnp.array([[0, 0, 0], [1, 1, 4]])
    expected = np.exp(stats.entropy([3, 2, 0, 0, 1]))
    np.testing.assert_allclose(quantization.perplexity(indices, 5), expected, rtol=1e-6)
    assert quantization.perplexity(jnp.arange(7), 7) == pytest.approx(7)
    assert quantization.perplexity(jnp.zeros(9, jnp.int32), 7) == pytest.approx(1)
    assert quantization.usage(indices, 5) == pytest.approx(3 / 5)
