import numpy as np
import pytest
from scipy import integrate, special, stats

from genjax.data import load, synthetic


def _data(name):
    return load({"name": f"synthetic:{name}"})


@pytest.mark.parametrize("name", ["ring", "grid"])
def test_density_of_a_mixture_against_scipy(name):
    data = _data(name)
    points = np.concatenate(
        [data.test.columns["point"][:50], np.random.RandomState(0).normal(size=(50, 2))]
    )
    parts = np.stack(
        [
            stats.multivariate_normal(mean, data.density.sigma**2).logpdf(points)
            for mean in data.density.means
        ],
        -1,
    )
    log_probs = special.logsumexp(parts, -1) - np.log(len(data.density.means))
    np.testing.assert_allclose(data.density.log_prob(points), log_probs, rtol=1e-9)
    label = np.arange(100) % 8
    np.testing.assert_allclose(
        data.density.log_prob(points, label), parts[np.arange(100), label], rtol=1e-9
    )


@pytest.mark.parametrize(("name", "modes"), [("ring", 8), ("grid", 25)])
def test_points_have_the_entropy_of_separate_gaussians(name, modes):
    """Components far apart in units of sigma: H = log K + log(2 pi e sigma^2).

    -log p(x) is then |z|^2 / 2 + constant with z ~ N(0, I_2): variance 1 per point.
    """
    data = _data(name)
    point = data.train.columns["point"]
    expected = np.log(modes) + np.log(2 * np.pi * np.e * data.density.sigma**2)
    found = -data.density.log_prob(point).mean()
    assert abs(found - expected) < 4 / np.sqrt(len(point))
    assert data.num_classes == modes and data.entry == "point" and data.shape == (2,)


def test_places_of_the_modes():
    ring, grid = synthetic.DENSITIES["ring"].means, synthetic.DENSITIES["grid"].means
    np.testing.assert_allclose(np.linalg.norm(ring, axis=1), 2)
    # Neighbours on an octagon of radius 2 are 4 sin(pi / 8) apart.
    gaps = np.linalg.norm(ring - np.roll(ring, 1, axis=0), axis=1)
    np.testing.assert_allclose(gaps, 4 * np.sin(np.pi / 8))
    expected = {(x, y) for x in range(-4, 5, 2) for y in range(-4, 5, 2)}
    assert {tuple(mean) for mean in grid} == expected


@pytest.mark.parametrize("name", list(synthetic.DENSITIES))
def test_labels_are_balanced_and_name_the_component(name):
    data = _data(name)
    columns = data.train.columns
    counts = np.bincount(columns["label"], minlength=data.num_classes)
    expected = len(data.train) / data.num_classes
    assert np.all(abs(counts - expected) < 5 * np.sqrt(expected))
    given = [
        data.density.log_prob(columns[data.entry][:500], np.full(500, k))
        for k in range(data.num_classes)
    ]
    assert np.mean(np.argmax(given, 0) == columns["label"][:500]) > 0.99


SHAPED = ["moons", "checkerboard", "rings"]


def cells(name):
    """Sides, and the probability of each cell of a grid over the plane by midpoints."""
    ticks = np.linspace(-5.0, 5.0, 401)
    middles = (ticks[1:] + ticks[:-1]) / 2
    points = np.stack(np.meshgrid(middles, middles, indexing="ij"), -1).reshape(-1, 2)
    density = np.concatenate(
        [np.exp(_data(name).density.log_prob(p)) for p in np.split(points, 100)]
    )
    return ticks, density.reshape(400, 400) * (ticks[1] - ticks[0]) ** 2


@pytest.mark.parametrize("name", SHAPED)
def test_shaped_densities_integrate_to_one_and_agree_with_the_draws(name):
    """Chi-squared of 20,000 draws over 400 cells, where P(> bound) = 1e-4."""
    data = _data(name)
    ticks, fine = cells(name)
    assert abs(fine.sum() - 1) < 1e-4
    point = data.train.columns["point"]
    found = np.histogram2d(*point.T, bins=[ticks[::20]] * 2)[0]
    assert found.sum() > 0.9999 * len(point)
    expected = len(point) * fine.reshape(20, 20, 20, 20).sum((1, 3))
    used = expected > 10
    rest = expected[~used].sum()
    assert abs(found[~used].sum() - rest) <= 4 * np.sqrt(rest) + 1
    statistic = np.sum((found - expected)[used] ** 2 / expected[used])
    assert statistic < stats.chi2(used.sum()).ppf(1 - 1e-4)


@pytest.mark.parametrize("name", SHAPED)
def test_shaped_densities_are_the_mean_over_their_classes(name):
    data = _data(name)
    points = data.test.columns["point"][:200]
    given = [
        data.density.log_prob(points, np.full(200, k)) for k in range(data.num_classes)
    ]
    expected = special.logsumexp(given, 0) - np.log(data.num_classes)
    np.testing.assert_allclose(data.density.log_prob(points), expected, rtol=1e-9)


def test_density_of_moons_against_adaptive_quadrature():
    density = _data("moons").density
    for point in np.array([[1.0, 1.5], [-1.0, 0.5], [0.0, 0.0], [2.9, -0.6]]):

        def integrand(t, label, point=point):
            mean = density.curve(t, label)
            return stats.multivariate_normal(mean, density.sigma**2).pdf(point) / np.pi

        for label in (0, 1):
            value, _ = integrate.quad(integrand, 0, np.pi, (label,), epsabs=1e-12)
            found = density.log_prob(point[None], np.array([label]))
            np.testing.assert_allclose(np.exp(found), value, rtol=1e-6, atol=1e-11)


def test_probability_of_blobs_against_scipy():
    """log P(v) = log(Phi(b) - Phi(a)) at the edges of a level; the ends take the rest.

    scipy's log_ndtr gives the logs of both tails to full precision.
    """
    data = _data("blobs")
    image = np.concatenate(
        [data.test.columns["image"][:6], np.full((1, 8, 8, 1), 0, np.uint8)]
    )
    v = image.astype(float)[:, None, None]
    mean, sigma = data.density.means, data.density.sigma
    low = np.where(v == 0, -np.inf, (v - 0.5 - mean) / sigma)
    high = np.where(v == 255, np.inf, (v + 0.5 - mean) / sigma)
    low, high = np.where(low > 0, -high, low), np.where(low > 0, -low, high)
    log_high, log_low = special.log_ndtr(high), special.log_ndtr(low)
    log_pmf = log_high + np.log1p(-np.exp(log_low - log_high))
    given = special.logsumexp(log_pmf.sum((3, 4, 5)), axis=2) - np.log(9)  # [B, 4]
    np.testing.assert_allclose(
        data.density.log_prob(image), special.logsumexp(given, 1) - np.log(4), rtol=1e-8
    )
    label = np.arange(len(image)) % 4
    np.testing.assert_allclose(
        data.density.log_prob(image, label), given[np.arange(len(image)), label], 1e-8
    )


@pytest.mark.parametrize("pixel", [(2, 2), (5, 3), (0, 7)])
def test_pixels_of_blobs_have_the_stated_distribution(pixel):
    """A histogram of 16 bins over the 20,000 images: chi-squared, P(> bound) = 1e-4."""
    data = _data("blobs")
    levels = data.train.columns["image"][:, *pixel, 0]
    normal = stats.norm(data.density.means[:, :, *pixel, 0, None], data.density.sigma)
    edges = np.concatenate([[-np.inf], np.arange(15.5, 255, 16), [np.inf]])
    expected = len(levels) * np.diff(normal.cdf(edges)).mean((0, 1))
    found = np.histogram(levels, np.arange(0, 257, 16))[0]
    used = expected > 10
    statistic = np.sum((found - expected)[used] ** 2 / expected[used])
    assert statistic < stats.chi2(used.sum()).ppf(1 - 1e-4)


@pytest.mark.parametrize("name", list(synthetic.DENSITIES))
def test_examples_never_change_and_splits_differ(name):
    first, second = synthetic.examples(name, "train"), synthetic.examples(name, "train")
    test = synthetic.examples(name, "test")
    for entry in first:
        np.testing.assert_array_equal(first[entry], second[entry])
        assert not np.array_equal(first[entry][:100], test[entry][:100])
    assert len(test["label"]) == 4_000 and len(first["label"]) == 20_000
    assert first["label"][:8].tolist() == PINNED[name]


PINNED = {  # Recorded, so that a change of the data does not go unseen.
    "ring": [4, 7, 5, 0, 3, 3, 3, 7],
    "grid": [12, 15, 21, 0, 3, 3, 7, 9],
    "moons": [0, 1, 1, 0, 1, 1, 1, 1],
    "checkerboard": [4, 7, 5, 0, 3, 3, 3, 7],
    "rings": [0, 3, 1, 0, 3, 3, 3, 3],
    "blobs": [0, 3, 1, 0, 3, 3, 3, 3],
}


def test_unknown_set_and_size_are_refused():
    with pytest.raises(ValueError, match=r"'ring'.*got 'rign'; did you mean 'ring'"):
        _data("rign")
    with pytest.raises(ValueError, match="image_size must be None"):
        load({"name": "synthetic:blobs", "image_size": 16})
