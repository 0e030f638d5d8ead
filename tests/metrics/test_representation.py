"""Latents and scores whose worth is known."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm

from genjax.metrics.representation import active_units, linear_probe, outlier_auroc


def test_active_units_vary_with_the_data():
    """Standard deviations 0, 0.05, 0.2 and 1: variances above 0.01 are the last two."""
    z = np.random.default_rng(0).standard_normal((10_000, 4)) * [0, 0.05, 0.2, 1]
    assert active_units(z) == 2
    assert active_units((z + 5).reshape(-1, 2, 2)) == 2


def test_a_linear_probe_reaches_the_bayes_accuracy_of_two_gaussians():
    """Centres 2 apart with unit noise: the best accuracy is Phi(1) = 0.841."""
    random = np.random.default_rng(0)
    label = random.integers(2, size=20_000)
    x = random.standard_normal((20_000, 3))
    x[:, 1] += 2 * label
    accuracy = linear_probe(x[:5000], label[:5000], x[5000:], label[5000:])
    assert accuracy == pytest.approx(norm.cdf(1), abs=0.012)


def test_auroc_is_mann_whitneys_u():
    random = np.random.default_rng(0)
    inside, outside = random.integers(0, 9, 50), random.integers(-3, 6, 70)
    u = mannwhitneyu(inside, outside).statistic
    assert outlier_auroc(inside, outside) == pytest.approx(u / (50 * 70))
