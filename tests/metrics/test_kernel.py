"""The kernel distance against loops and against torchmetrics."""

import numpy as np
import pytest

from genjax.metrics.kernel import kernel_distance, polynomial_kernel, squared_mmd


def two_sets(n=12, m=9, d=4):
    random = np.random.default_rng(0)
    return random.standard_normal((n, d)), 0.5 + random.standard_normal((m, d))


def test_squared_mmd_is_the_double_loop():
    a, b = two_sets()

    def kernel(x, y):
        return (sum(p * q for p, q in zip(x, y, strict=True)) / 4 + 1) ** 3

    def within(x):
        pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if i != j]
        return sum(kernel(x[i], x[j]) for i, j in pairs) / len(pairs)

    across = sum(kernel(p, q) for p in a for q in b) / (len(a) * len(b))
    expected = within(a) + within(b) - 2 * across
    assert squared_mmd(a, b) == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(polynomial_kernel(a, b)[2, 3], kernel(a[2], b[3]))


def test_it_is_unbiased():
    """Of sets from one distribution it is 0 in the mean, and so negative at times."""
    random = np.random.default_rng(0)
    values = [squared_mmd(*random.standard_normal((2, 10, 3))) for _ in range(4000)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 4000**0.5
    assert min(values) < 0


def test_subsets_of_everything_are_the_whole_and_smaller_ones_vary():
    a, b = two_sets(9, 9)
    whole = kernel_distance(a, b, num_subsets=3, subset_size=9)
    assert whole.value == pytest.approx(squared_mmd(a, b))
    assert whole.variance == pytest.approx(0, abs=1e-20)
    some = kernel_distance(a, b, num_subsets=400, subset_size=5)
    assert some.variance > 0
    error = 4 * (some.variance / 400) ** 0.5
    assert abs(some.value - whole.value) < error
    assert some == kernel_distance(a, b, num_subsets=400, subset_size=5)
    with pytest.raises(ValueError, match="from 2 to 9"):
        kernel_distance(a, b)


def test_kid_of_torchmetrics_on_the_same_features():
    torch = pytest.importorskip("torch", reason="needs the bench extra")
    image = pytest.importorskip("torchmetrics.image.kid", reason="needs it too")
    a, b = (x.astype(np.float32) for x in two_sets(40, 40))

    class Same(torch.nn.Module):
        num_features = 4

        def forward(self, x):
            return x

    theirs = image.KernelInceptionDistance(feature=Same(), subsets=2, subset_size=40)
    theirs.update(torch.tensor(a), real=True)
    theirs.update(torch.tensor(b), real=False)
    mean, _ = theirs.compute()
    ours = kernel_distance(a, b, num_subsets=2, subset_size=40)
    assert ours.value == pytest.approx(float(mean), rel=1e-3)
