"""The diffusion process against conditioned joint Gaussians and derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import processes, schedules

BETAS = np.array([0.02, 0.1, 0.05, 0.3, 0.5])
A = schedules.alphas_cumprod(BETAS)
T = len(BETAS)
STEPS = jnp.arange(T)


def joint(s):
    """Covariance of (x0, x_0, ..., x_{T-1}), built one noising at a time.

    x0 ~ N(0, s^2) and x_t = sqrt(1 - beta) x_{t-1} + sqrt(beta) z: each new variable is
    a row of coefficients of independent normals, and the covariance is rows rows^T.
    """
    rows = [np.eye(T + 1)[0] * s]
    for i, beta in enumerate(BETAS):
        rows.append(np.sqrt(1 - beta) * rows[-1] + np.sqrt(beta) * np.eye(T + 1)[i + 1])
    return np.array(rows) @ np.array(rows).T


def conditional(cov, target, given):
    """Coefficients of the mean and the variance of one variable given others."""
    inner = cov[np.ix_(given, given)]
    coefficients = np.linalg.solve(inner, cov[given, target])
    return coefficients, cov[target, target] - coefficients @ cov[given, target]


def draws(*shape, num=2, seed=0):
    return jax.random.normal(jax.random.key(seed), (num, *shape))


def test_q_sample_is_the_chain_of_single_steps():
    """Given x0, x_t is Gaussian; its mean and variance are read off the joint."""
    cov = joint(1.0)
    ones, zeros = jnp.ones((T, 1)), jnp.zeros((T, 1))
    signal = processes.q_sample(ones, STEPS, zeros, alphas_cumprod=A)[:, 0]
    noise = processes.q_sample(zeros, STEPS, ones, alphas_cumprod=A)[:, 0]
    for t in range(T):
        coefficients, variance = conditional(cov, t + 1, [0])
        np.testing.assert_allclose(signal[t], coefficients[0], rtol=1e-6)
        np.testing.assert_allclose(noise[t] ** 2, variance, rtol=1e-6)


def test_posterior_is_the_conditional_of_the_joint_gaussian():
    """x_{t-1} given x_t and x0, by linear algebra, from the first t that has both."""
    x0, x_t = draws(T, 2)
    mean, variance, log_var = processes.posterior(x0, x_t, STEPS, alphas_cumprod=A)
    for t in range(1, T):
        coefficients, expected = conditional(joint(1.0), t, [0, t + 1])
        np.testing.assert_allclose(
            mean[t], coefficients @ np.stack([x0[t], x_t[t]]), rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(variance[t], expected, rtol=1e-5)
        np.testing.assert_allclose(log_var[t], np.log(expected), rtol=1e-5)


def test_posterior_by_quadrature():
    """Bayes on a grid: q(x_{t-1} | x_t, x0) ~ q(x_t | x_{t-1}) q(x_{t-1} | x0)."""
    x0, x_t, t = 0.4, -0.9, 3
    grid = np.linspace(-8, 8, 20001)
    prior = np.exp(-((grid - np.sqrt(A[t - 1]) * x0) ** 2) / (2 * (1 - A[t - 1])))
    step = np.exp(-((x_t - np.sqrt(1 - BETAS[t]) * grid) ** 2) / (2 * BETAS[t]))
    density = prior * step / np.sum(prior * step)
    expected_mean = np.sum(density * grid)
    mean, variance, _ = processes.posterior(
        jnp.array([x0]), jnp.array([x_t]), jnp.array([t]), alphas_cumprod=A
    )
    np.testing.assert_allclose(mean[0], expected_mean, rtol=1e-5)
    expected = np.sum(density * (grid - expected_mean) ** 2)
    np.testing.assert_allclose(variance[0], expected, rtol=1e-5)


def test_posterior_of_the_first_step_is_the_image():
    x0, x_t = draws(1, 3)
    t = jnp.zeros(1, int)
    mean, variance, log_var = processes.posterior(x0, x_t, t, alphas_cumprod=A)
    np.testing.assert_allclose(mean, x0, rtol=1e-6)
    assert variance.item() == 0
    _, second, _ = processes.posterior(x0, x_t, t + 1, alphas_cumprod=A)
    np.testing.assert_allclose(log_var, jnp.log(second), rtol=1e-6)


def test_posterior_of_a_schedule_of_one_step_is_finite():
    x0, x_t = draws(1, 3)
    mean, variance, log_var = processes.posterior(
        x0, x_t, jnp.zeros(1, int), alphas_cumprod=np.array([0.7])
    )
    np.testing.assert_allclose(mean, x0, rtol=1e-6)
    np.testing.assert_allclose(log_var, np.log(0.3), rtol=1e-6)
    assert variance.item() == 0


def test_float64_tables_keep_the_digits_of_small_noise():
    """The noise after a beta of 1e-7 is sqrt(1e-7); float32 holds 1 - 1e-7 badly.

    With a second beta of 1e-6 the posterior's variance adds the precisions 1e7 and
    (1 - 1e-6) 1e6, in all about 1.1e7.
    """
    a = schedules.alphas_cumprod(np.array([1e-7, 1e-6]))
    one, zero, t = jnp.ones((1, 1)), jnp.zeros((1, 1)), jnp.zeros(1, int)

    def noise_and_variance(a):
        noise = processes.q_sample(zero, t, one, alphas_cumprod=a)
        _, variance, _ = processes.posterior(one, one, t + 1, alphas_cumprod=a)
        return noise.item(), variance.item()

    exact = np.array([1e-7**0.5, 1 / (1e7 + 1e6 - 1)])
    np.testing.assert_allclose(noise_and_variance(a), exact, rtol=1e-6)
    rounded = noise_and_variance(jnp.asarray(a))
    assert np.all(np.abs(rounded / exact - 1) > 1e-2)


def test_jax_tables_may_be_traced():
    x0, x_t = draws(T, 3)
    expected = processes.posterior(x0, x_t, STEPS, alphas_cumprod=A)
    traced = jax.jit(lambda a: processes.posterior(x0, x_t, STEPS, alphas_cumprod=a))
    for value, target in zip(traced(jnp.asarray(A)), expected, strict=True):
        np.testing.assert_allclose(value, target, rtol=1e-4, atol=1e-5)


def test_conversions_recover_what_was_mixed():
    x0, eps = draws(T, 2, 3, 1)
    bind = dict(alphas_cumprod=A)
    x_t = processes.q_sample(x0, STEPS, eps, **bind)
    v = processes.v_from_x0_eps(x0, eps, STEPS, **bind)
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    close(processes.x0_from_eps(eps, x_t, STEPS, **bind), x0)
    close(processes.eps_from_x0(x0, x_t, STEPS, **bind), eps)
    close(processes.x0_from_v(v, x_t, STEPS, **bind), x0)
    close(processes.eps_from_v(v, x_t, STEPS, **bind), eps)
    score = processes.score_from_eps(eps, STEPS, **bind)
    close(processes.eps_from_score(score, STEPS, **bind), eps)


def test_v_is_the_velocity_on_the_circle():
    """x = cos(phi) x0 + sin(phi) eps; the derivative in phi, where a = cos^2(phi)."""
    x0, eps = draws(T, 2)
    phi = jnp.arccos(jnp.sqrt(jnp.asarray(A)))[:, None]

    def x(phi):
        return jnp.cos(phi) * x0 + jnp.sin(phi) * eps

    _, expected = jax.jvp(x, (phi,), (jnp.ones_like(phi),))
    v = processes.v_from_x0_eps(x0, eps, STEPS, alphas_cumprod=A)
    np.testing.assert_allclose(v, expected, rtol=1e-4, atol=1e-5)


def test_score_is_the_gradient_of_the_log_density():
    """x0 ~ N(0, s^2) makes x_t ~ N(0, v); (eps, x_t) is Gaussian with covariance
    sqrt(1 - a), so E[eps | x_t] = sqrt(1 - a) x_t / v.
    """
    s, x_t = 0.6, draws(T, num=1)[0]
    v = jnp.diag(joint(s))[1:]
    expected = jax.grad(lambda x: jnp.sum(jax.scipy.stats.norm.logpdf(x, 0, v**0.5)))(
        x_t
    )
    eps = jnp.sqrt(1 - A) * x_t / v
    score = processes.score_from_eps(eps, STEPS, alphas_cumprod=A)
    np.testing.assert_allclose(score, expected, rtol=1e-5)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_as_eps_fn_gives_the_noise_whatever_was_predicted(prediction):
    x0, eps = draws(T, 3)
    x_t = processes.q_sample(x0, STEPS, eps, alphas_cumprod=A)
    v = processes.v_from_x0_eps(x0, eps, STEPS, alphas_cumprod=A)
    output = {"eps": eps, "x0": x0, "v": v}[prediction]
    eps_fn = processes.as_eps_fn(lambda x, t: output, prediction, alphas_cumprod=A)
    np.testing.assert_allclose(eps_fn(x_t, STEPS), eps, rtol=1e-4, atol=1e-5)
    pair_fn = processes.as_eps_fn(
        lambda x, t: (output, 2 * x0), prediction, alphas_cumprod=A
    )
    first, second = pair_fn(x_t, STEPS)
    np.testing.assert_allclose(first, eps, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(second, 2 * x0)


@pytest.mark.parametrize(("s", "variance"), [(1.0, "large"), (1e-4, "small")])
def test_reverse_is_the_true_one_in_the_two_extreme_cases(s, variance):
    """DDPM, Sec. 3.2: beta is right for x0 ~ N(0, 1), beta~ for a single image.

    The truth is x_{t-1} given x_t in the joint Gaussian.
    """
    x_t = draws(T, num=1)[0]
    cov = joint(s)
    eps = jnp.sqrt(1 - A) * x_t / jnp.diag(cov)[1:]
    mean, log_var = processes.reverse(
        eps, x_t, STEPS, alphas_cumprod=A, variance=variance, clip=False
    )
    for t in range(1, T):
        coefficients, expected = conditional(cov, t, [t + 1])
        np.testing.assert_allclose(
            mean[t], coefficients[0] * x_t[t], rtol=1e-3, atol=1e-5
        )
        np.testing.assert_allclose(jnp.exp(log_var[t]), expected, rtol=1e-4)


def test_learned_variance_lies_between_the_fixed_ones():
    """v = -1 is the small, 1 the large one, 0 their geometric mean."""
    x_t, eps = draws(T, 3)

    def log_var(variance, *v):
        output = (eps, *v) if v else eps
        found = processes.reverse(
            output, x_t, STEPS, alphas_cumprod=A, variance=variance
        )[1]
        return found[1:]

    ones = jnp.ones_like(x_t)
    small, large = log_var("small"), log_var("large")
    spread = jnp.ones_like(x_t[1:])
    np.testing.assert_allclose(log_var("learned", -ones), small * spread, rtol=1e-5)
    np.testing.assert_allclose(log_var("learned", ones), large * spread, rtol=1e-5)
    geometric = jnp.log(jnp.sqrt(jnp.exp(small) * jnp.exp(large))) * spread
    np.testing.assert_allclose(log_var("learned", 0 * ones), geometric, rtol=1e-5)


def test_reverse_clips_the_guess_of_x0():
    """At t = 0 the mean is the guess itself."""
    x_t, t = jnp.array([[3.0], [0.1], [-3.0]]), jnp.zeros(3, int)
    mean, _ = processes.reverse(jnp.zeros((3, 1)), x_t, t, alphas_cumprod=A)
    np.testing.assert_allclose(mean[:, 0], [1, 0.1 / 0.98**0.5, -1], rtol=1e-5)


@pytest.mark.parametrize(
    ("output", "t", "variance"),
    [
        (jnp.zeros((2, 3)), jnp.zeros(2), "small"),
        (jnp.zeros((2, 3)), jnp.zeros(3, int), "small"),
        (jnp.zeros((2, 1)), jnp.zeros(2, int), "small"),
        (jnp.zeros((2, 3)), jnp.zeros(2, int), "learned"),
        (jnp.zeros((2, 3)), jnp.zeros(2, int), "medium"),
        ((jnp.zeros((2, 3)), jnp.zeros((2, 1))), jnp.zeros(2, int), "learned"),
    ],
)
def test_what_does_not_fit_is_refused(output, t, variance):
    with pytest.raises(ValueError):
        processes.reverse(
            output, jnp.zeros((2, 3)), t, alphas_cumprod=A, variance=variance
        )


@pytest.mark.parametrize(
    "table, words",
    [
        (schedules.cosine(10), "of betas, take schedules.alphas_cumprod"),
        (schedules.linear(10), "fall within"),
        (np.linspace(1.5, 0.1, 10), "fall within"),
        (np.linspace(0.9, 0.0, 10), "fall within"),
        (np.full((2, 5), 0.5), r"shape \[T\], got \(2, 5\)"),
        (jnp.full((2, 5), 0.5), r"shape \[T\], got \(2, 5\)"),
    ],
)
def test_what_is_no_kept_power_is_refused(table, words):
    x, t = jnp.zeros((2, 4, 4, 1)), jnp.zeros(2, int)
    for fn in (processes.q_sample, processes.posterior):
        args = (x, t, x) if fn is processes.q_sample else (x, x, t)
        with pytest.raises(ValueError, match=words):
            fn(*args, alphas_cumprod=table)


def test_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match="'eps', 'x0' or 'v'"):
        processes.as_eps_fn(lambda x, t: x, "noise", alphas_cumprod=A)
