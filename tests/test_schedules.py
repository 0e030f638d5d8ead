"""Schedules against printed values, limits and exhaustive small cases."""

from fractions import Fraction

import numpy as np
import pytest

from genjax import schedules

NAMES = ["linear", "cosine", "sigmoid"]


@pytest.mark.parametrize("num_steps", [1, 2, 7, 1000])
@pytest.mark.parametrize("name", NAMES)
def test_schedules_of_any_length_are_float64_in_the_unit_interval(name, num_steps):
    betas = schedules.make(name, num_steps)
    assert betas.dtype == np.float64 and betas.shape == (num_steps,)
    assert np.all(betas > 0) and np.all(betas < 1)
    kept = schedules.alphas_cumprod(betas)
    assert kept.dtype == np.float64 and np.all(np.diff(kept) < 0) and kept[-1] > 0


def test_linear_has_the_values_of_the_paper():
    """Ho et al., Sec. 4: from beta_1 = 1e-4 linearly to beta_T = 0.02, T = 1000.

    Linearly means even steps: their sum is 1000 times the mean of the ends.
    """
    betas = schedules.linear(1000)
    assert betas[0] == 1e-4 and betas[-1] == 0.02
    np.testing.assert_allclose(np.diff(betas), 0.0199 / 999, rtol=1e-9)
    np.testing.assert_allclose(betas.sum(), 10.05)


def test_alphas_cumprod_is_the_running_product():
    """By exact fractions: 9/10, 9/10 4/5 = 18/25, 18/25 1/2 = 9/25."""
    betas = [Fraction(1, 10), Fraction(1, 5), Fraction(1, 2)]
    kept = schedules.alphas_cumprod(np.array([float(beta) for beta in betas]))
    np.testing.assert_allclose(kept, [9 / 10, 18 / 25, 9 / 25], rtol=1e-15)


def test_cosine_without_offset_follows_the_half_angle_formula():
    """cos^2(x / 2) = (1 + cos x) / 2 gives, for T = 4, (1 + 1/sqrt 2) / 2 and so on.

    The last step would reach zero, so beta = max_beta leaves a thousandth.
    """
    kept = schedules.alphas_cumprod(schedules.cosine(4, s=0, max_beta=0.999))
    third = (1 - 0.5**0.5) / 2
    expected = [(1 + 0.5**0.5) / 2, 0.5, third, third / 1000]
    np.testing.assert_allclose(kept, expected, rtol=1e-12)


def test_cosine_starts_slightly_below_the_size_of_a_pixel_bin():
    """Nichol & Dhariwal, Sec. 3.2: s = 0.008 puts sqrt(beta_0) just below 1 / 127.5."""
    first = schedules.cosine(1000)[0] ** 0.5
    assert 0.8 / 127.5 < first < 1 / 127.5


def test_sigmoid_is_symmetric_and_scales():
    """S(-x) = 1 - S(x): the kept powers at u and 1 - u add up to 1.

    Only x / tau counts, so doubling start, end and tau changes nothing.
    """
    kept = schedules.alphas_cumprod(schedules.sigmoid(10))
    np.testing.assert_allclose(kept[:9] + kept[8::-1], 1, rtol=1e-12)
    doubled = schedules.sigmoid(10, start=-6, end=6, tau=2)
    np.testing.assert_allclose(doubled, schedules.sigmoid(10), rtol=1e-12)


def test_flat_sigmoid_is_a_straight_line():
    """For tau much greater than the stretch, S is linear: the kept power is 1 - t/T."""
    kept = schedules.alphas_cumprod(schedules.sigmoid(10, tau=1e4))
    np.testing.assert_allclose(kept[:-1], 1 - np.arange(1, 10) / 10, rtol=1e-6)


def test_sigmoid_passes_through_known_points():
    """S(k log 3) = 1/4, 1/2, 3/4 and 9/10 at k = -1, 0, 1 and 2, the steps of T = 3.

    The kept powers are (0.9 - 0.5) / (0.9 - 0.25) = 8/13 and 0.15 / 0.65 = 3/13.
    """
    betas = schedules.sigmoid(3, start=-np.log(3), end=2 * np.log(3))
    kept = schedules.alphas_cumprod(betas)
    np.testing.assert_allclose(kept[:2], [8 / 13, 3 / 13], rtol=1e-12)


@pytest.mark.parametrize("spacing", ["uniform", "quadratic"])
def test_timesteps_of_every_small_size_are_distinct_and_reach_the_end(spacing):
    for total in range(1, 30):
        for count in range(1, total + 1):
            steps = schedules.timesteps(total, count, spacing)
            assert steps.dtype == np.int64 and steps.shape == (count,)
            assert np.all(np.diff(steps) > 0)
            assert steps[0] >= 0 and steps[-1] == total - 1
            if spacing == "uniform" and count > 1:
                assert steps[0] == 0 and np.ptp(np.diff(steps)) <= 1


def test_timesteps_in_round_cases():
    """999 = 9 * 111 and 100 = 10^2 need no rounding; 9 / 9 * i^2 / 9 crowds at zero."""
    uniform = schedules.timesteps(1000, 10)
    np.testing.assert_array_equal(uniform, 111 * np.arange(10))
    quadratic = schedules.timesteps(101, 11, "quadratic")
    np.testing.assert_array_equal(quadratic, np.arange(11) ** 2)
    crowded = schedules.timesteps(10, 7, "quadratic")
    np.testing.assert_array_equal(crowded, [0, 1, 2, 3, 4, 6, 9])


@pytest.mark.parametrize(
    "call",
    [
        lambda: schedules.make("exponential", 10),
        lambda: schedules.linear(0),
        lambda: schedules.linear(10, beta_min=0.1, beta_max=0.01),
        lambda: schedules.linear(10, beta_min=0),
        lambda: schedules.linear(10, beta_max=1),
        lambda: schedules.cosine(10, s=-1),
        lambda: schedules.cosine(10, max_beta=1),
        lambda: schedules.sigmoid(10, start=3, end=3),
        lambda: schedules.sigmoid(10, tau=0),
        lambda: schedules.alphas_cumprod(np.array([0.1, 1.0])),
        lambda: schedules.timesteps(10, 11),
        lambda: schedules.timesteps(10, 0),
        lambda: schedules.timesteps(10, 5, "cubic"),
    ],
)
def test_bad_arguments_are_refused(call):
    with pytest.raises(ValueError):
        call()


def test_unknown_schedule_lists_the_known_ones():
    with pytest.raises(ValueError, match="'linear', 'cosine', 'sigmoid'"):
        schedules.make("quartic", 10)
