"""Mode coverage of samples placed by hand."""

import numpy as np
import pytest

from genjax.data.synthetic import DENSITIES
from genjax.metrics.modes import mode_coverage


def test_modes_are_covered_by_enough_good_samples():
    """Four centres, 400 samples: each is due 100, and covered by 5 of them."""
    means = np.array([[0, 0], [10, 0], [0, 10], [10, 10]])
    near = np.repeat(means + np.array([0, 2.9]), [300, 5, 4, 0], axis=0)
    points = np.concatenate([near, np.full((91, 2), 5.0)])  # The latter far from all.
    found = mode_coverage(points, means, 1.0)
    assert found.modes == 2
    assert found.good_share == pytest.approx(309 / 400)
    np.testing.assert_array_equal(found.counts, [300, 5, 4, 0])


@pytest.mark.parametrize("name, modes", [("grid", 25), ("ring", 8)])
def test_the_density_itself_covers_all(name, modes):
    """In the plane, P(|x| <= 3 sigma) = 1 - exp(-9/2), the Rayleigh distribution's."""
    density = DENSITIES[name]
    points = density.draw(np.random.RandomState(0), 20_000)["point"]
    found = mode_coverage(points, density.means, density.sigma)
    assert found.modes == modes
    share = 1 - np.exp(-4.5)
    assert abs(found.good_share - share) < 4 * np.sqrt(share * (1 - share) / 20_000)
