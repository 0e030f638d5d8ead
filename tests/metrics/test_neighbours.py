"""Neighbours against brute force and scipy."""

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.stats import mannwhitneyu

from genjax.metrics import neighbours
from genjax.metrics.neighbours import memorisation, nearest, prdc


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """So that several are needed."""
    monkeypatch.setattr(neighbours, "ROWS", 7)


def sets(n=30, m=20):
    random = np.random.default_rng(0)
    return random.standard_normal((n, 3)), 0.7 * random.standard_normal((m, 3)) + 0.3


def test_nearest_is_the_kd_trees():
    examples, queries = sets()
    far, index = nearest(queries.reshape(20, 3, 1), examples.reshape(30, 3, 1), 4)
    expected_far, expected_index = cKDTree(examples).query(queries, 4)
    np.testing.assert_allclose(far, expected_far, atol=1e-7)
    np.testing.assert_array_equal(index, expected_index)
    with pytest.raises(ValueError, match="from 1 to 30"):
        nearest(queries, examples, 31)


@pytest.mark.parametrize("k", [1, 3])
def test_prdc_is_what_loops_count(k):
    real, samples = sets()

    def distance(x, y):
        return np.sqrt(sum((x - y) ** 2))

    def radius(x, own):
        return sorted(distance(x, y) for y in own if y is not x)[k - 1]

    real, samples = list(real), list(samples)
    real_radius = [radius(x, real) for x in real]
    sample_radius = [radius(y, samples) for y in samples]
    in_real = [
        [distance(x, y) <= r for x, r in zip(real, real_radius, strict=True)]
        for y in samples
    ]
    in_sample = [
        [distance(x, y) <= r for y, r in zip(samples, sample_radius, strict=True)]
        for x in real
    ]
    found = prdc(np.array(real), np.array(samples), k)
    assert found.precision == pytest.approx(np.mean([any(row) for row in in_real]))
    assert found.recall == pytest.approx(np.mean([any(row) for row in in_sample]))
    assert found.density == pytest.approx(np.sum(in_real) / (k * len(samples)))
    covered = [any(column) for column in zip(*in_real, strict=True)]
    assert found.coverage == pytest.approx(np.mean(covered))
    assert 0 < found.recall < 1 and 0 < found.coverage < 1


def test_prdc_of_lost_modes_and_of_nonsense():
    """Samples of one of two modes are precise and miss half; far ones are neither."""
    random = np.random.default_rng(0)
    a, b, more = random.standard_normal((3, 300, 2))
    real = np.concatenate([a, b + 100])
    half = prdc(real, more)
    assert half.precision > 0.9 and half.density > 0.8
    assert 0.4 < half.recall <= 0.5 and 0.4 < half.coverage <= 0.5
    assert prdc(real, more - 100) == (0, 0, 0, 0)
    with pytest.raises(ValueError, match="k=5"):
        prdc(real, more[:5])


def test_memorisation_is_mann_whitneys_u_of_the_distances():
    train, samples = sets()
    held_out = np.random.default_rng(1).standard_normal((25, 3))
    tree = cKDTree(train)
    u = mannwhitneyu(tree.query(held_out)[0], tree.query(samples)[0]).statistic
    found = memorisation(samples, train, held_out)
    assert found == pytest.approx(u / (20 * 25))


def test_copies_are_memorised_and_fresh_draws_are_not():
    train, held_out, fresh = np.random.default_rng(0).standard_normal((3, 400, 2))
    assert memorisation(train[:50], train, held_out) == 1
    assert memorisation(train[:50] + 100, train, held_out) == 0
    assert abs(memorisation(fresh, train, held_out) - 0.5) < 0.08
    assert memorisation(held_out, train, held_out) == pytest.approx(0.5)
