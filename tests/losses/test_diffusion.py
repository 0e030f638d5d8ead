"""Losses of diffusion on Gaussian data, where the best predictor is linear.

x0 ~ N(0, s^2) per pixel; with v_t = a s^2 + 1 - a the best noise predictor is
E[eps | x_t] = sqrt(1 - a) x_t / v_t, for eps and x_t are jointly Gaussian with
covariance sqrt(1 - a).
"""

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from genjax import losses, processes, schedules
from genjax.losses import diffusion
from genjax.losses.diffusion import simple_loss

A = schedules.alphas_cumprod(schedules.linear(20, beta_min=0.01, beta_max=0.5))
T = len(A)
S = 0.3


def best_eps_fn(x_t, t, a=A, s=S):
    a = jnp.asarray(a)[t].reshape(-1, *[1] * (x_t.ndim - 1))
    return jnp.sqrt(1 - a) * x_t / (a * s**2 + 1 - a)


def true_reverse_variance(a, s):
    """Var(x_{t-1} | x_t) for each t; at t = 0 that of the image x0 given x_t.

    The two are Gaussian with variances v_{t-1}, v_t and correlate by
    sqrt(a_t / a_{t-1}) v_{t-1}; conditioning is a Schur complement.
    """
    a = np.concatenate([[1.0], a])
    v = a * s**2 + 1 - a
    covariance = np.sqrt(a[1:] / a[:-1]) * v[:-1]
    return v[:-1] - covariance**2 / v[1:]


def on_the_256_levels(x):
    return jnp.clip(jnp.round((x + 1) * 127.5), 0, 255) / 127.5 - 1


def level_nll(x0, s):
    """-log of the Gaussian's mass in the bins of the 256 levels, by scipy."""
    x0 = np.asarray(x0, np.float64)
    upper = np.where(x0 > 1 - 1e-3, np.inf, x0 + 1 / 255)
    lower = np.where(x0 < -1 + 1e-3, -np.inf, x0 - 1 / 255)
    mass = stats.norm.cdf(upper, scale=s) - stats.norm.cdf(lower, scale=s)
    return -np.log(mass).sum(axis=(1, 2, 3))


@pytest.mark.parametrize("a", [0.9, 0.5, 0.1])
def test_simple_loss_of_the_best_predictor_on_gaussian_data(a):
    """x0 ~ N(0, s^2) makes (x_t, eps) jointly Gaussian, so the best guess is linear.

    With v = a s^2 + 1 - a: E[eps | x_t] = sqrt(1 - a) x_t / v, variance a s^2 / v.
    """
    s, a = 0.7, jnp.array([a])  # One noise level keeps the standard error small.
    v = a * s**2 + 1 - a
    data_key, loss_key = jax.random.split(jax.random.key(0))
    x0 = s * jax.random.normal(data_key, (1024, 8, 8, 1))
    loss = simple_loss(
        lambda x_t, t: jnp.sqrt(1 - a) * x_t / v, x0, loss_key, alphas_cumprod=a
    )
    standard_error = loss.std() / jnp.sqrt(loss.size)
    assert abs(loss.mean() - a * s**2 / v) < 4 * standard_error


@pytest.mark.parametrize("prediction", ["x0", "v"])
@pytest.mark.parametrize("a", [0.9, 0.1])
def test_denoising_loss_of_the_best_predictor(a, prediction):
    """x0 = (x_t - sqrt(1 - a) eps) / sqrt(a): its best guess errs by (1 - a) / a times
    the a s^2 / v of eps, that is s^2 (1 - a) / v.

    v = sqrt(a) eps - sqrt(1 - a) x0 = eps / sqrt(a) - sqrt((1 - a) / a) x_t errs by
    s^2 / v. Regressed on x_t, which has variance v: Cov(x0, x_t) = sqrt(a) s^2 and
    Cov(v, x_t) = sqrt(a (1 - a)) (1 - s^2).
    """
    s, v = 0.7, a * 0.7**2 + 1 - a
    slope, expected = {
        "x0": (a**0.5 * s**2 / v, s**2 * (1 - a) / v),
        "v": ((a * (1 - a)) ** 0.5 * (1 - s**2) / v, s**2 / v),
    }[prediction]
    data_key, loss_key = jax.random.split(jax.random.key(0))
    x0 = s * jax.random.normal(data_key, (1024, 8, 8, 1))
    loss = losses.diffusion.denoising_loss(
        lambda x_t, t: slope * x_t,
        x0,
        loss_key,
        alphas_cumprod=np.array([a]),
        prediction=prediction,
    )
    assert loss.shape == (1024,)
    assert abs(loss.mean() - expected) < 4 * loss.std() / loss.size**0.5


WEIGHTS = [
    diffusion.constant_weights,
    diffusion.snr_weights,
    diffusion.truncated_snr_weights,
    diffusion.min_snr_weights,
    diffusion.p2_weights,
]


@pytest.mark.parametrize("weights_fn", WEIGHTS)
def test_weights_mean_the_same_in_every_prediction(weights_fn):
    """One predictor, converted to each unit, has the same loss image by image."""
    x0 = 0.5 * jax.random.normal(jax.random.key(1), (64, 4, 4, 1))
    bind = dict(alphas_cumprod=A)

    def eps_fn(x_t, t):  # Any wrong predictor will do.
        return jnp.tanh(x_t + t[:, None, None, None] / T)

    def x0_fn(x_t, t):
        return processes.x0_from_eps(eps_fn(x_t, t), x_t, t, **bind)

    def v_fn(x_t, t):
        x0_hat, eps_hat = x0_fn(x_t, t), eps_fn(x_t, t)
        return processes.v_from_x0_eps(x0_hat, eps_hat, t, **bind)

    @jax.jit
    def all_losses(x0, key):
        return [
            diffusion.denoising_loss(
                predict_fn,
                x0,
                key,
                prediction=prediction,
                weights=weights_fn(A, prediction),
                **bind,
            )
            for prediction, predict_fn in [("eps", eps_fn), ("x0", x0_fn), ("v", v_fn)]
        ]

    found = all_losses(x0, jax.random.key(2))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-3)


@pytest.mark.parametrize(
    ("weights_fn", "prediction", "expected"),
    [
        (diffusion.constant_weights, "x0", [1, 1, 1]),
        (diffusion.snr_weights, "eps", [1, 1, 1]),
        (diffusion.truncated_snr_weights, "x0", [9, 1, 1]),
        (diffusion.min_snr_weights, "x0", [5, 1, 1 / 3]),
        (diffusion.min_snr_weights, "eps", [5 / 9, 1, 1]),
        (diffusion.min_snr_weights, "v", [5 / 10, 1 / 2, 1 / 4]),
        (diffusion.p2_weights, "eps", [1 / 10, 1 / 2, 3 / 4]),
    ],
)
def test_weights_in_the_papers_form(weights_fn, prediction, expected):
    """a = 9/10, 1/2 and 1/4 have SNR a / (1 - a) = 9, 1 and 1/3."""
    a = np.array([0.9, 0.5, 0.25])
    found = weights_fn(a, prediction)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected)
    traced = jax.jit(lambda a: weights_fn(a, prediction))(jnp.asarray(a))
    np.testing.assert_allclose(traced, expected, rtol=1e-5)


def test_weights_multiply_the_loss_of_their_step():
    x0, t = jnp.ones((3, 2, 2, 1)), jnp.array([4, 0, 2])
    settings = dict(alphas_cumprod=A[:5], t=t)
    plain, weighted = (
        diffusion.denoising_loss(
            lambda x_t, t: x_t, x0, jax.random.key(0), weights=weights, **settings
        )
        for weights in (None, 10.0 ** np.arange(5))
    )
    np.testing.assert_allclose(weighted / plain, [1e4, 1, 1e2], rtol=1e-5)


jitted_log_prob = jax.jit(diffusion.discretized_gaussian_log_prob)


@pytest.mark.parametrize("sigma", [1e-4, 3e-3, 0.05, 1.0, 10.0])
@pytest.mark.parametrize("mean", [-3.0, -1.0, -0.2, 0.0, 0.5, 1.0, 3.0])
def test_decoder_shares_one_out_over_the_levels(mean, sigma):
    levels = jnp.arange(256) / 127.5 - 1
    log_p = jitted_log_prob(levels, mean, 2 * np.log(sigma))
    # Logarithms near log(1/2), good to 6e-8, differ by 2 / 255 / sigma in each bin.
    assert abs(special.logsumexp(np.float64(log_p))) < 2e-5 * max(1, sigma)


@pytest.mark.parametrize("sigma", [0.02, 0.1, 1.0])
def test_decoder_in_the_tails_is_right(sigma):
    """log(exp(u) - exp(l)) of scipy's float64 log-cdf, mirrored to the lower tail."""
    levels = np.arange(256) / 127.5 - 1
    mean = 0.3
    distance = -np.abs(levels - mean)
    upper = stats.norm.logcdf((distance + 1 / 255) / sigma)
    lower = stats.norm.logcdf((distance - 1 / 255) / sigma)
    expected = upper + np.log1p(-np.exp(lower - upper))
    log_p = jitted_log_prob(jnp.float32(levels), mean, 2 * np.log(sigma))
    np.testing.assert_allclose(log_p[1:-1], expected[1:-1], rtol=1e-4)
    ends = stats.norm.logcdf(
        [(-1 - mean + 1 / 255) / sigma, (mean - 1 + 1 / 255) / sigma]
    )
    np.testing.assert_allclose(log_p[jnp.array([0, -1])], ends, rtol=1e-4)


def test_decoder_has_a_finite_gradient_everywhere():
    """Far below: P ~ exp(-z^2 / 2) of the near edge, with derivative z / sigma in the
    mean, z its distance in sigmas (up to the hazard rate's 1 / z).
    """
    levels, sigma = jnp.arange(256) / 127.5 - 1, 0.004
    grad_fn = jax.jit(
        jax.vmap(
            jax.grad(diffusion.discretized_gaussian_log_prob, argnums=(1, 2)),
            in_axes=(0, None, None),
        )
    )
    for mean in (-3.0, 0.1, 3.0):
        assert np.all(np.isfinite(grad_fn(levels, mean, 2 * np.log(sigma))))
    grad = grad_fn(levels, -1.0, 2 * np.log(sigma))[0][128]
    z = (levels[128] + 1 - 1 / 255) / sigma
    np.testing.assert_allclose(grad, z / sigma, rtol=1e-2)


def test_prior_kl_is_the_integral_and_vanishes_as_the_paper_says():
    """The integral of q log(q / p) at a coarse end; Ho et al., Sec. 4: about 1e-5 bits
    a dimension for their schedule, where pixels have E[x0^2] of about 1/4.
    """
    a, value = 0.2, 0.7
    q, p = stats.norm(a**0.5 * value, (1 - a) ** 0.5), stats.norm()
    expected, _ = integrate.quad(
        lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), -8, 8
    )
    x0 = jnp.full((2, 3, 3, 1), value)
    kl = diffusion.prior_kl(x0, alphas_cumprod=np.array([0.5, a]))
    np.testing.assert_allclose(kl, [9 * expected] * 2, rtol=1e-5)
    published = schedules.alphas_cumprod(schedules.linear(1000))
    x0 = jnp.full((1, 1), 0.5)
    bits = diffusion.prior_kl(x0, alphas_cumprod=published) / np.log(2)
    assert 0.5e-5 < bits.item() < 1.5e-5


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_terms_of_the_bound_on_gaussian_data(variance):
    """With the best predictor p has the true mean, and its variance is w.

    E KL(q || p) = (log(w / b) + b / w - 1 + Var(E_q[x_{t-1}] | x_t) / w) / 2 with b the
    posterior's variance; the last Var is Var(x_{t-1} | x_t) - b, by total variance.
    """
    small = 1 / (1 / (1 - A[:-1]) + (A[1:] / A[:-1]) / (1 - A[1:] / A[:-1]))
    large = 1 - A[1:] / A[:-1]
    w = {"small": small, "large": large, "learned": np.sqrt(small * large)}[variance]
    true = true_reverse_variance(A, S)[1:]
    expected = (np.log(w / small) + (true / w) - 1) / 2

    def eps_fn(x_t, t):
        eps = best_eps_fn(x_t, t)
        return (eps, jnp.zeros_like(eps)) if variance == "learned" else eps

    x0 = S * jax.random.normal(jax.random.key(0), (256, 8, 8, 1))
    bound = jax.jit(
        lambda x0, key: diffusion.variational_bound(
            eps_fn, x0, key, alphas_cumprod=A, variance=variance, clip=False
        )
    )(x0, jax.random.key(1))
    assert bound.denoising.shape == (256, T - 1)
    mean, error = bound.denoising.mean(0), bound.denoising.std(0) / 16
    assert np.all(np.abs(mean - 64 * expected) < 4.5 * error + 1e-4)


def exact_v(a, s):
    """The v that makes the learned variance the true one, [T]."""
    true = np.log(true_reverse_variance(a, s))
    betas = 1 - a / np.concatenate([[1.0], a[:-1]])
    small = betas[1:] * (1 - a[:-1]) / (1 - a[1:])
    low, high = np.log(np.concatenate([small[:1], small])), np.log(betas)
    return 2 * (true - low) / (high - low) - 1


def test_the_bound_of_the_exact_model_is_the_log_likelihood():
    """With true means and variances, p is the time reversal of q from Gaussian data.

    Then q(x_1..x_T | x0) = p(x_1..x_T | x0) and the bound is tight for any T: its mean
    over the noise is -log P(x0) for each image, with P(x0) the Gaussian's mass in the
    pixel bins. The bins are ten times narrower than the first step's noise, which
    leaves a rounding of (1/12) (0.0078 / 0.1)^2 / 2 = 3e-4 nats a pixel.
    """
    x0 = on_the_256_levels(S * jax.random.normal(jax.random.key(0), (512, 8, 8, 1)))
    v = jnp.asarray(exact_v(A, S))

    def exact_fn(x_t, t):
        shaped = v[t][:, None, None, None] * jnp.ones_like(x_t)
        return best_eps_fn(x_t, t), shaped

    def total(eps_fn, variance):
        bound = jax.jit(
            lambda x0, key: diffusion.variational_bound(
                eps_fn, x0, key, alphas_cumprod=A, variance=variance, clip=False
            )
        )(x0, jax.random.key(1))
        return bound.total

    nll = level_nll(x0, S)
    gap = total(exact_fn, "learned") - nll
    assert abs(gap.mean()) < 4 * gap.std() / 512**0.5 + 64 * 3e-4
    # A wrong variance costs, and only this makes the test above say something.
    for variance in ("small", "large"):
        assert (total(best_eps_fn, variance) - nll).mean() > 64 * 0.01


def test_the_bound_with_a_fixed_variance_tightens_with_more_steps():
    """Each KL in excess of the truth is of order 1 / T^2, so T of them fall as 1 / T.

    The first step is held fixed (a = 0.99), with a decoder of the true variance w in
    place of the fixed one: in the mean it costs log(2 pi e w) / 2 - log(bin) a pixel.
    """
    x0 = on_the_256_levels(S * jax.random.normal(jax.random.key(0), (512, 4, 4, 1)))
    nll, gaps = level_nll(x0, S), []
    for num_steps in (10, 40, 160):
        a = np.exp(-(np.linspace(0.01**0.5, 2.5, num_steps) ** 2))
        bound = jax.jit(
            lambda x0, key, a=a: diffusion.variational_bound(
                lambda x_t, t: best_eps_fn(x_t, t, a),
                x0,
                key,
                alphas_cumprod=a,
                clip=False,
            )
        )(x0, jax.random.key(1))
        w = true_reverse_variance(a, S)[0]
        decoder = 16 * (np.log(2 * np.pi * np.e * w) / 2 - np.log(2 / 255))
        gaps.append(bound.prior + bound.denoising.sum(1) + decoder - nll)
    means = [gap.mean() for gap in gaps]
    errors = [gap.std() / 512**0.5 for gap in gaps]
    assert means[0] > means[1] + 4 * errors[1] > means[2] + 8 * errors[2]
    assert -4 * errors[2] < means[2] < means[0] / 8 + 4 * errors[2]


def test_vlb_term_mixes_decoder_and_kl_by_step():
    """Images at t = 0 and t > 0 in one batch: means as the bound's own terms."""
    x0 = on_the_256_levels(S * jax.random.normal(jax.random.key(0), (2048, 4, 4, 1)))
    t = jnp.arange(2048) % 4
    found = jax.jit(
        lambda x0, t, key: diffusion.vlb_term(
            best_eps_fn, x0, t, key, alphas_cumprod=A, variance="small"
        )
    )(x0, t, jax.random.key(1))
    true = true_reverse_variance(A, S)
    for step in range(1, 4):
        small = 1 / (1 / (1 - A[step - 1]) + A[step] / (A[step - 1] - A[step]))
        mean, of_step = 16 * (true[step] / small - 1) / 2, found[t == step]
        assert abs(of_step.mean() - mean) < 4.5 * of_step.std() / 512**0.5
    # Decoder of variance w at the true mean of x0: -log density of a bin's width.
    w = (1 - A[0]) * (1 - A[1] / A[0]) / (1 - A[1])
    mean = 16 * (np.log(2 * np.pi * w) / 2 + true[0] / w / 2 - np.log(2 / 255))
    first = found[t == 0]
    assert abs(first.mean() - mean) < 4.5 * first.std() / 512**0.5


def test_hybrid_loss_trains_the_mean_by_the_simple_loss_alone():
    """The gradient in a scale of eps is that of the simple loss; v gets its own.

    At the true variance E[L_t] is least, log w + Var / w, so its gradient in v is zero
    in the mean, while at a larger variance it is not.
    """
    x0 = on_the_256_levels(S * jax.random.normal(jax.random.key(0), (512, 8, 8, 1)))
    key, t = jax.random.key(1), 1 + jnp.arange(512) % (T - 1)
    exact = jnp.asarray(exact_v(A, S))

    @jax.jit
    def hybrid(scale, shift, vlb_weight=1.0):
        def eps_fn(x_t, t):
            v = exact[t][:, None, None, None] + shift
            return scale * best_eps_fn(x_t, t), v * jnp.ones_like(x_t)

        settings = dict(alphas_cumprod=A, vlb_weight=vlb_weight, t=t)
        return diffusion.hybrid_loss(eps_fn, x0, key, **settings)

    @jax.jit
    def simple(scale):
        return diffusion.denoising_loss(
            lambda x_t, t: scale * best_eps_fn(x_t, t), x0, key, alphas_cumprod=A, t=t
        )

    grads = jax.jit(jax.jacfwd(hybrid, argnums=(0, 1)))
    expected = jax.jacfwd(simple)(0.8)
    np.testing.assert_allclose(grads(0.8, 0.0)[0], expected, rtol=1e-4, atol=1e-5)
    at_best, above = grads(1.0, 0.0)[1], grads(1.0, 0.5)[1]
    assert abs(at_best.mean()) < 4 * at_best.std() / 512**0.5
    assert above.mean() > 4 * above.std() / 512**0.5
    np.testing.assert_allclose(hybrid(0.8, 0.0, 0.0), simple(0.8), rtol=1e-5)


def test_hybrid_loss_adds_the_bound_per_dimension():
    """Its mean exceeds the simple loss by lambda T E[KL] / D, where with the true
    variance w E[KL] = D log(w / b) / 2 (the terms above with Var = w).
    """
    step, num_images = 3, 4096
    x0 = S * jax.random.normal(jax.random.key(0), (num_images, 4, 4, 1))
    v = exact_v(A, S)[step]
    settings = dict(alphas_cumprod=A, t=jnp.full(num_images, step))

    def eps_fn(x_t, t):
        return best_eps_fn(x_t, t), jnp.full_like(x_t, v)

    @jax.jit
    def extra_fn(x0, key):
        hybrid = diffusion.hybrid_loss(eps_fn, x0, key, vlb_weight=0.01, **settings)
        return hybrid - diffusion.denoising_loss(best_eps_fn, x0, key, **settings)

    small = 1 / (1 / (1 - A[step - 1]) + A[step] / (A[step - 1] - A[step]))
    expected = 0.01 * T * np.log(true_reverse_variance(A, S)[step] / small) / 2
    extra = extra_fn(x0, jax.random.key(1))
    assert abs(extra.mean() - expected) < 4 * extra.std() / num_images**0.5


def test_importance_memory_is_a_queue_per_step():
    """Against Python's deque, with steps that occur many times in a batch."""
    size, rng = 3, np.random.default_rng(0)
    state = diffusion.importance_init(4, size)
    queues = [deque(maxlen=size) for _ in range(4)]
    for _ in range(5):
        t, values = rng.integers(0, 4, 12), rng.random(12)
        state = jax.jit(diffusion.importance_update)(state, t, jnp.asarray(values))
        for step, value in zip(t, values, strict=True):
            queues[step].append(value**2)
    for row, queue in zip(state.history, queues, strict=True):
        np.testing.assert_allclose(np.sort(row), np.sort(queue), rtol=1e-5)
    assert state.counts.sum() == 60


def full_state(mean_squares):
    """A full memory with the given mean squares, each row uneven."""
    spread = jnp.linspace(0.5, 1.5, 10)
    counts = jnp.full(len(mean_squares), 10)
    return diffusion.ImportanceState(jnp.outer(mean_squares, spread), counts)


def test_importance_sampling_is_unbiased():
    """Sum over t of p_t (weight_t L_t) is the plain mean of L, whatever p is."""
    state = full_state(jnp.array([100.0, 1.0, 0.01, 4.0, 0.0]))
    t, weights = jax.jit(diffusion.importance_sample, static_argnums=2)(
        state, jax.random.key(0), 100_000
    )
    p = diffusion.importance_probabilities(state)
    weight = np.array([weights[np.argmax(t == step)] for step in range(5)])
    values = np.array([3.0, -1.0, 4.0, 1.0, 5.0])
    np.testing.assert_allclose(np.sum(p * weight * values), values.mean(), rtol=1e-5)
    exact_p = np.float64(p) / np.float64(p).sum()
    assert stats.chisquare(np.bincount(t, minlength=5), 1e5 * exact_p).pvalue > 1e-3
    # Roots 10, 1, 0.1, 2 and 0, but for one draw in a thousand.
    expected = 0.999 * np.array([10, 1, 0.1, 2, 0]) / 13.1 + 0.0002
    np.testing.assert_allclose(p, expected, rtol=1e-4)


def test_importance_sampling_is_uniform_until_each_step_has_ten():
    state = full_state(jnp.array([100.0, 1.0]))
    state = state._replace(counts=jnp.array([500, 9]))
    np.testing.assert_allclose(diffusion.importance_probabilities(state), 0.5)
    _, weights = diffusion.importance_sample(state, jax.random.key(0), 8)
    np.testing.assert_allclose(weights, 1, rtol=1e-6)
    state = diffusion.importance_update(state, jnp.array([1]), jnp.array([1.0]))
    assert diffusion.importance_probabilities(state)[0] > 0.8


def test_a_learned_variance_has_no_part_in_the_simple_loss():
    x0, key = jnp.zeros((2, 4, 4, 1)), jax.random.key(0)
    alone = simple_loss(lambda x_t, t: x_t, x0, key, alphas_cumprod=A)
    pair = simple_loss(lambda x_t, t: (x_t, 9 * x_t), x0, key, alphas_cumprod=A)
    np.testing.assert_array_equal(alone, pair)


def test_what_does_not_fit_is_refused():
    x0, key = jnp.zeros((2, 4, 4, 1)), jax.random.key(0)
    with pytest.raises(ValueError, match="keep shape"):
        simple_loss(lambda x_t, t: x_t[..., 0], x0, key, alphas_cumprod=A)
    with pytest.raises(ValueError, match="prediction"):
        diffusion.denoising_loss(
            lambda x_t, t: x_t, x0, key, alphas_cumprod=A, prediction="noise"
        )
    with pytest.raises(ValueError, match="prediction"):
        diffusion.snr_weights(A, "noise")
    with pytest.raises(ValueError, match="weights must be one a step"):
        diffusion.denoising_loss(
            lambda x_t, t: x_t, x0, key, alphas_cumprod=A, weights=np.ones(2)
        )
    with pytest.raises(ValueError, match="a model that returns"):
        diffusion.hybrid_loss(lambda x_t, t: x_t, x0, key, alphas_cumprod=A)
