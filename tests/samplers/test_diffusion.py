"""Samplers on Gaussian data, where the best predictor is linear and known.

x0 ~ N(m, s^2) per pixel; x_t ~ N(sqrt(a) m, v) with v = a s^2 + 1 - a, and the best
noise predictor is E[eps | x_t] = sqrt(1 - a) (x_t - sqrt(a) m) / v.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import samplers, schedules
from genjax.samplers.diffusion import ancestral, ddim, ddim_encode, initial_noise

T = 200
A = schedules.alphas_cumprod(schedules.linear(T, beta_min=5e-4, beta_max=0.1))
M, S = 0.3, 0.5
NUM = 4096  # Images of 4 x 4 pixels: 65,536 numbers a sample.


def best_eps_fn(x_t, t):
    a = jnp.asarray(A, jnp.float32)[t].reshape(-1, *[1] * (x_t.ndim - 1))
    return jnp.sqrt(1 - a) * (x_t - jnp.sqrt(a) * M) / (a * S**2 + 1 - a)


def mixture_eps_fn(x_t, t):
    """Exact for two points at -0.5 and 0.5: E[x0 | x_t] = tanh(sqrt(a) x / 2(1-a)) / 2.

    (The posterior log-odds of the points are sqrt(a) x_t / (1 - a).)
    """
    a = jnp.asarray(A, jnp.float32)[t].reshape(-1, *[1] * (x_t.ndim - 1))
    x0 = 0.5 * jnp.tanh(jnp.sqrt(a) * x_t / (2 * (1 - a)))
    return (x_t - jnp.sqrt(a) * x0) / jnp.sqrt(1 - a)


def keys_of(num, seed=0):
    return jax.random.split(jax.random.key(seed), num)


def start(num=NUM, seed=0):
    return initial_noise(keys_of(num, seed), (4, 4, 1)), keys_of(num, seed)


def levels(steps):
    """Kept power after and before each visited step."""
    a = A[steps]
    return a, np.concatenate([[1.0], a[:-1]])


def true_reverse(steps):
    """Slope and variance of x_{t-1} given x_t: a Schur complement, step by step."""
    a, a_prev = levels(steps)
    v, v_prev = (b * S**2 + 1 - b for b in (a, a_prev))
    covariance = np.sqrt(a / a_prev) * v_prev
    return covariance / v, v_prev - covariance**2 / v


def check_moments(x, mean, variance, bias=0.0):
    """Within 4.5 standard errors, s / sqrt(n) and sqrt(2 / n) s^2, and `bias` s."""
    x = np.asarray(x, np.float64)
    assert abs(x.mean() - mean) < (4.5 / x.size**0.5 + bias) * S
    assert abs(x.var() - variance) < (4.5 * (2 / x.size) ** 0.5 + 2 * bias) * S**2


@pytest.mark.parametrize("num_steps", [10, T])
@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_ancestral_draws_from_the_gaussian(variance, num_steps):
    """The steps are affine, so the variance follows V <- slope^2 V + w from V = 1.

    Slopes and the exact w come from conditioning the joint Gaussian; the fixed ones are
    Var(x_{t-1} | x_t, x0), by adding precisions, and beta. The last step adds no noise.
    With the learned w exact, V + w is s^2 at the end for any number of steps; the fixed
    ones come within 7% of it with all T = 200 steps.
    """
    steps = schedules.timesteps(T, num_steps)
    (a, a_prev), (slopes, exact) = levels(steps), true_reverse(steps)
    betas = 1 - a / a_prev
    small = 1 / (1 / (1 - a_prev[1:]) + (1 - betas[1:]) / betas[1:])
    low, high = np.log(np.concatenate([small[:1], small])), np.log(betas)
    v_of_step = np.zeros(T)
    v_of_step[steps] = 2 * (np.log(exact) - low) / (high - low) - 1
    table = jnp.asarray(v_of_step, jnp.float32)
    w = {"small": np.exp(low), "large": betas, "learned": exact}[variance]

    def eps_fn(x_t, t):
        v = table[t][:, None, None, None] * jnp.ones_like(x_t)
        return (best_eps_fn(x_t, t), v)

    sample = jax.jit(
        lambda x_T, keys: ancestral(
            eps_fn,
            x_T,
            keys,
            alphas_cumprod=A,
            steps=steps,
            variance=variance,
            clip=False,
        )
    )
    expected = 1.0
    for i in reversed(range(num_steps)):
        expected = slopes[i] ** 2 * expected + (w[i] if i else 0)
    if variance == "learned":
        np.testing.assert_allclose(expected + exact[0], S**2, rtol=1e-3)
    elif num_steps == T:
        np.testing.assert_allclose(expected + exact[0], S**2, rtol=0.07)
    check_moments(sample(*start()), M, expected, bias=2e-3)


def test_ddim_follows_the_probability_flow():
    """d(x / sqrt(a)) = eps d(sigma), sigma = sqrt((1 - a) / a), has the solution
    x = sqrt(a) m + sqrt(v) z with z constant: the ODE keeps quantiles. Starting at
    x_T = z sqrt(v_T) + sqrt(a_T) m, DDIM's Euler steps reach m + s z up to O(1 / S),
    a first order that Richardson's extrapolation cancels.
    """
    z = jnp.linspace(-2, 2, 9)[:, None, None, None]
    x_T = np.sqrt(A[-1]) * M + np.sqrt(A[-1] * S**2 + 1 - A[-1]) * z
    found = [
        ddim(best_eps_fn, x_T, alphas_cumprod=A, steps=steps, clip=False)
        for steps in (None, schedules.timesteps(T, T // 2))
    ]
    errors = [float(jnp.abs(x0 - (M + S * z)).max()) for x0 in found]
    assert errors[0] < 0.03 * S and 1.8 < errors[1] / errors[0] < 2.2
    extrapolated = 2 * found[0] - found[1]
    np.testing.assert_allclose(extrapolated, M + S * z, atol=errors[0] / 5)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_draws_from_the_gaussian_at_any_eta(eta):
    sample = jax.jit(
        lambda x_T, keys: ddim(
            best_eps_fn, x_T, keys, alphas_cumprod=A, eta=eta, clip=False
        )
    )
    # The bias is that of T first-order steps, see the tests above.
    check_moments(sample(*start()), M, S**2, bias=0.035)


@pytest.mark.parametrize("clip", [False, True])
def test_ddim_with_eta_one_is_ancestral_sampling(clip):
    """Song et al., Sec. 4.1: at eta = 1 the process is DDPM's with the small variance.

    The two draw the same noise, so they agree image by image. With clipping, only an
    eps recomputed from the clipped x0 gives the mean of the posterior.
    """
    x_T, keys = start(16)
    settings = dict(
        alphas_cumprod=A, clip=clip, steps=schedules.timesteps(T, 20, "quadratic")
    )
    one = ddim(best_eps_fn, 2 * x_T, keys, eta=1.0, **settings)
    other = ancestral(best_eps_fn, 2 * x_T, keys, variance="small", **settings)
    assert (jnp.abs(one).max() <= 1) == clip
    np.testing.assert_allclose(one, other, atol=2e-5)


def test_clipped_ddim_by_hand():
    """Two steps, a = 0.25 then 0.64, model eps = 0, from x = 2.

    x0 = 2 / 0.5 = 4, clipped to 1; eps = (2 - 0.5) / sqrt(0.75) = sqrt(3). Then
    x = 0.8 + 0.6 sqrt(3) = 1.839 and x0 = x / 0.8 = 2.3, clipped to 1. From x = 0.3:
    x0 = 0.6 and eps = 0, x = 0.48, x0 = 0.6.
    """
    x_T = jnp.array([[2.0], [0.3], [-2.0]])
    a = np.array([0.64, 0.25])
    x0 = ddim(lambda x, t: 0 * x, x_T, alphas_cumprod=a)
    np.testing.assert_allclose(x0[:, 0], [1, 0.6, -1], rtol=1e-6)
    # With a third step the recomputed eps shows: a = 0.36, sqrt(1 - a) = 0.8.
    a = np.array([0.36, 0.25])
    seen = []
    with jax.disable_jit():
        ddim(lambda x, t: seen.append(x) or 0 * x, x_T, alphas_cumprod=a)
    np.testing.assert_allclose(seen[1][0], 0.6 + 0.8 * 3**0.5, rtol=1e-6)


@pytest.mark.parametrize("sampler", [ancestral, ddim])
def test_samplers_tell_the_model_its_own_steps(sampler):
    seen = []

    def eps_fn(x_t, t):
        assert t.shape == (2,) and t.dtype == jnp.int32
        seen.append(int(t[0]))
        return x_t

    with jax.disable_jit():
        x_T, keys = start(2)
        sampler(eps_fn, x_T, keys, alphas_cumprod=A, steps=[3, 50, 120])
    assert seen == [120, 50, 3]


SAMPLERS = {
    "ancestral": lambda x_T, keys: ancestral(
        lambda x, t: (mixture_eps_fn(x, t), jnp.tanh(x)),
        x_T,
        keys,
        alphas_cumprod=A,
        variance="learned",
    ),
    "ddim": lambda x_T, keys: ddim(
        mixture_eps_fn, x_T, keys, alphas_cumprod=A, eta=0.7
    ),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_does_not_depend_on_its_batch(name):
    sample, keys = jax.jit(SAMPLERS[name]), keys_of(5)
    whole = sample(initial_noise(keys, (4, 4, 1)), keys)
    part = sample(initial_noise(keys[3:], (4, 4, 1)), keys[3:])
    np.testing.assert_allclose(part, whole[3:], atol=1e-5)
    assert jnp.abs(whole[3] - whole[4]).max() > 0.1


def test_noise_is_white_and_new_at_each_step():
    """With eps = 0, a constant and its mean removed, x0 is a sum of independent noise:
    an ancestral chain on x_T = 0 must not repeat the initial noise of the same keys.
    """
    x_T, keys = start()
    check_moments(x_T * S, 0, S**2)
    x0 = ancestral(
        best_eps_fn, 0 * x_T, keys, alphas_cumprod=A, steps=[20, 60], clip=False
    )
    correlation = np.corrcoef(np.ravel(x0), np.ravel(x_T))[0, 1]
    assert abs(correlation) < 4.5 / x_T.size**0.5


def test_encoding_then_decoding_approaches_the_image():
    """Both are Euler's method on one ODE, so the error halves as steps double."""
    x0 = jnp.linspace(-0.9, 0.9, 10)[:, None, None, None]
    errors = []
    for num_steps in (50, 100, 200):
        settings = dict(alphas_cumprod=A, steps=schedules.timesteps(T, num_steps))
        x_T = ddim_encode(best_eps_fn, x0, **settings)
        decoded = ddim(best_eps_fn, x_T, eta=0.0, clip=False, **settings)
        errors.append(float(jnp.abs(decoded - x0).max()))
    assert errors[-1] < 0.04
    ratios = np.array(errors[:-1]) / np.array(errors[1:])
    assert np.all(ratios > 1.6), ratios


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_short_floats_are_taken_in_and_computed_with_as_float32(dtype):
    x_T, keys = start(4)
    settings = dict(alphas_cumprod=A, steps=[20, 60])
    for sampler in (ancestral, ddim):
        found = sampler(best_eps_fn, x_T.astype(dtype), keys, **settings)
        expected = sampler(
            best_eps_fn, x_T.astype(dtype).astype(float), keys, **settings
        )
        np.testing.assert_allclose(found, expected, atol=1e-5)
    found = ddim_encode(best_eps_fn, x_T.astype(dtype), **settings)
    assert found.dtype == jnp.float32


def test_encoding_finds_the_quantile():
    """As above: the ODE keeps z = (x - sqrt(a) m) / sqrt(v), from (x0 - m) / s."""
    x0 = jnp.linspace(-0.9, 0.9, 10)[:, None, None, None]
    x_T = ddim_encode(best_eps_fn, x0, alphas_cumprod=A)
    z = (x_T - np.sqrt(A[-1]) * M) / np.sqrt(A[-1] * S**2 + 1 - A[-1])
    np.testing.assert_allclose(z, (x0 - M) / S, atol=0.04)


def test_a_single_step_is_the_guess_of_x0():
    x_T, keys = start(4)
    expected = (x_T - np.sqrt(1 - A[-1]) * 0.5) / np.sqrt(A[-1])
    for sampler in (ancestral, ddim):
        x0 = sampler(
            lambda x, t: jnp.full_like(x, 0.5),
            x_T,
            keys,
            alphas_cumprod=A,
            steps=[T - 1],
            clip=False,
        )
        np.testing.assert_allclose(x0, expected, rtol=1e-4, atol=1e-3)


def test_gradient_guidance_shifts_by_the_variance():
    """A last step with model eps = 0 and gradient 1, one step of beta = 0.36: the mean
    is x / 0.8 and the variance beta, the only one there is.
    """
    x_T, keys = start(3)
    x0 = samplers.diffusion.ancestral(
        lambda x, t: 0 * x,
        x_T,
        keys,
        alphas_cumprod=np.array([0.64]),
        clip=False,
        grad_fn=lambda x, t: jnp.ones_like(x),
    )
    np.testing.assert_allclose(x0, x_T / 0.8 + 0.36, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("sampler", "change", "message"),
    [
        (ddim, dict(eta=0.5), "key per image"),
        (ddim, dict(eta=1.5), "eta"),
        (ddim, dict(steps=[5, 3]), "rising"),
        (ddim, dict(steps=[0, T]), "rising"),
        (ddim, dict(steps=[]), "rising"),
        (ancestral, dict(keys=keys_of(3)), "key per image"),
        (ancestral, dict(keys=keys_of(2), variance="medium"), "variance"),
        (ancestral, dict(keys=keys_of(2), variance="learned"), r"\(eps, v\)"),
    ],
)
def test_what_does_not_fit_is_refused(sampler, change, message):
    with pytest.raises(ValueError, match=message):
        sampler(lambda x, t: x, jnp.zeros((2, 4)), alphas_cumprod=A, **change)
