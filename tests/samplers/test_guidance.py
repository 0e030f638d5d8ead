"""Guidance on a mixture of two Gaussians, whose noisy classifier is known.

p(x0) = 0.3 N(-0.6, s^2) + 0.7 N(0.6, s^2). Noised, each part is N(sqrt(a) m_y, v)
with v = a s^2 + 1 - a, the classifier is Bayes' rule, and the best noise predictor is
eps = -sqrt(1 - a) grad log p(x_t).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.stats import kstest, norm

from genjax import samplers, schedules
from genjax.samplers.diffusion import ancestral, ddim, initial_noise
from genjax.samplers.guidance import classifier_eps, classifier_free, classifier_grad

T = 300
A = schedules.alphas_cumprod(schedules.linear(T, beta_min=3e-4, beta_max=0.067))
TABLE = jnp.asarray(A, jnp.float32)
PRIOR, MEANS, S = jnp.array([0.3, 0.7]), jnp.array([-0.6, 0.6]), 0.2
NULL = 2  # The label of "no condition".


def log_joint(x, t):
    """log p(x_t, y) of numbers x [N] for y = 0, 1: [N, 2]."""
    a = TABLE[t][:, None]
    sigma = jnp.sqrt(a * S**2 + 1 - a)
    density = jax.scipy.stats.norm.logpdf(x[:, None], jnp.sqrt(a) * MEANS, sigma)
    return jnp.log(PRIOR) + density


def logits_fn(x_t, t):
    return log_joint(x_t[:, 0], t) + 5.0  # Logits may be shifted.


def eps_of(log_density):
    """-sqrt(1 - a) times the derivative of a function of (x [N], t [N])."""

    def eps_fn(x_t, t):
        grad = jax.grad(lambda x: jnp.sum(log_density(x, t)))(x_t[:, 0])
        return -jnp.sqrt(1 - TABLE[t])[:, None] * grad[:, None]

    return eps_fn


unconditional_fn = eps_of(lambda x, t: jax.nn.logsumexp(log_joint(x, t), axis=1))


def conditional_fn(label):
    return eps_of(lambda x, t: log_joint(x, t)[:, label])


def model_fn(x_t, t, cond):
    """What a network trained with dropped labels knows: cond is {"label": int [N]}."""
    log_densities = [unconditional_fn(x_t, t)] + [
        conditional_fn(y)(x_t, t) for y in (0, 1)
    ]
    choice = (cond["label"] + 1) % 3  # NULL is the first.
    return jnp.take_along_axis(
        jnp.concatenate(log_densities, axis=1), choice[:, None], axis=1
    )


def labels(num, label):
    return {"label": jnp.full(num, label)}


def start(num):
    keys = jax.random.split(jax.random.key(0), num)
    return initial_noise(keys, (1,)), keys


def points():
    """A spread of (x_t [N, 1], t [N]) that covers all noise levels."""
    t = jnp.arange(0, T, 7)
    return jnp.linspace(-2, 2, len(t))[:, None], t


def test_guided_eps_is_the_score_of_the_sharpened_density():
    """Both ways aim at p(x_t) p(y | x_t)^scale, whose derivative jax.grad takes.

    At scale 1 this is the conditional one and at 0 the unconditional one.
    """
    x_t, t = points()

    @jax.jit
    def expected_and_found(scale, label):
        def log_density(x, t):
            joint = log_joint(x, t)
            tilt = scale * jax.nn.log_softmax(joint)[:, label]
            return jax.nn.logsumexp(joint, axis=1) + tilt

        grad_fn = classifier_grad(logits_fn, jnp.full(len(t), label), scale)
        by_classifier = classifier_eps(unconditional_fn, grad_fn, alphas_cumprod=A)
        cond, null_cond = labels(len(t), label), labels(len(t), NULL)
        free = classifier_free(model_fn, cond, null_cond, scale)
        return eps_of(log_density)(x_t, t), by_classifier(x_t, t), free(x_t, t)

    for label in (0, 1):
        for scale in (0.0, 1.0, 2.5):
            expected, *found = expected_and_found(scale, label)
            for eps in found:
                np.testing.assert_allclose(eps, expected, rtol=1e-3, atol=1e-4)
        # The Python number 1 takes a path of its own.
        one = classifier_free(model_fn, labels(len(t), label), labels(len(t), NULL), 1)
        expected, *_ = expected_and_found(1.0, label)
        np.testing.assert_allclose(one(x_t, t), expected, rtol=1e-3, atol=1e-4)


def test_classifier_grad_is_the_derivative_of_bayes_rule():
    """p(y=1 | x) is the sigmoid of the log-odds log(7/3) + 2 sqrt(a) 0.6 x / v.

    Its logarithm has the derivative (1 - p(y=1 | x)) 2 sqrt(a) 0.6 / v.
    """
    x_t, t = points()
    a = A[np.asarray(t)]
    slope = 1.2 * np.sqrt(a) / (a * S**2 + 1 - a)
    p = 1 / (1 + 3 / 7 * np.exp(-slope * np.asarray(x_t[:, 0], np.float64)))
    grad_fn = jax.jit(classifier_grad(logits_fn, jnp.ones(len(t), int), 3.0))
    found = grad_fn(x_t, t)
    np.testing.assert_allclose(found[:, 0], 3 * (1 - p) * slope, rtol=1e-3, atol=1e-5)


@partial(jax.jit, static_argnums=0)
def sample(how, scale, label, x_T, keys):
    """Samples by one of the three ways."""
    num = len(x_T)
    grad_fn = classifier_grad(logits_fn, jnp.full(num, label), scale)
    settings = dict(alphas_cumprod=A, clip=False)
    if how == "algorithm 1":
        return ancestral(unconditional_fn, x_T, keys, grad_fn=grad_fn, **settings)
    if how == "algorithm 2":
        eps_fn = classifier_eps(unconditional_fn, grad_fn, alphas_cumprod=A)
    else:
        pair = labels(num, label), labels(num, NULL)
        eps_fn = classifier_free(model_fn, *pair, scale)
    return ddim(eps_fn, x_T, **settings)


def guided_samples(how, scale, label, num=4096):
    return np.asarray(sample(how, scale, label, *start(num)))[:, 0]


WAYS = ["algorithm 1", "algorithm 2", "classifier-free"]


@pytest.mark.parametrize("how", WAYS)
def test_scale_one_reaches_the_conditional_distribution(how):
    """Bayes: p(x) p(y | x) ~ p(x | y) = N(m_y, s^2); label 0 has but 30% of the prior.

    Of n = 4096 the mean errs by s / 64; the discretisation of 300 steps by about 2%.
    """
    x = guided_samples(how, 1.0, label=0)
    assert abs(x.mean() + 0.6) < (4 / 64 + 0.02) * S
    assert abs(x.std() / S - 1) < 4 / 90 + 0.03
    assert kstest((x - x.mean()) / x.std(), norm.cdf).statistic < 2 / 64


@pytest.mark.parametrize("how", WAYS)
def test_scale_zero_leaves_the_prior(how):
    """Then 30% lie on the left: a binomial error of sqrt(0.21 / 4096) = 0.7%."""
    x = guided_samples(how, 0.0, label=0)
    assert abs(np.mean(x < 0) - 0.3) < 4 * 0.0072 + 0.005


@pytest.mark.parametrize("how", WAYS)
def test_a_high_scale_leaves_the_other_mode(how):
    """p(y | x)^(s - 1) tilts N(m_y, s^2) away from the other class.

    At noise level a, with u = 2 sqrt(a) 0.6 / v, the tilt's score (s - 1)(1 - p(y|x)) u
    always points from the other mean to this one.
    """
    one, high = guided_samples(how, 1.0, label=0), guided_samples(how, 5.0, label=0)
    assert high.mean() < one.mean() - 0.1 * S
    assert np.all(high < 0)


def linear_guidance_moments(scale, stochastic):
    """Mean and variance of guided samples by scipy, where all eps are linear.

    Unconditional N(0, c_u), conditional N(m, c_c). In z = x / sqrt(a) and sigma =
    sqrt((1 - a) / a), eps_u = sigma z / (c_u + sigma^2), eps_c alike, and the guided
    eps = sigma (P z - q). DDIM's limit is dz = eps d(sigma); ancestral sampling's
    doubles the drift and adds noise of variance d(sigma^2) on the way down.
    """
    drift = 2 if stochastic else 1

    def slope(sigma, moments):
        mean, variance = moments
        u, c = 1 / (C_U + sigma**2), 1 / (C_C + sigma**2)
        precision, pull = u + scale * (c - u), scale * c * M
        return [
            drift * sigma * (precision * mean - pull),
            2 * drift * sigma * precision * variance - 2 * sigma * stochastic,
        ]

    end = ((1 - A[-1]) / A[-1]) ** 0.5
    path = solve_ivp(slope, (end, 0), [0, 1 / A[-1]], rtol=1e-8, atol=1e-10)
    return path.y[:, -1]


C_U, C_C, M = 0.25, 0.09, 0.2


def linear_eps_fn(x_t, t, cond):
    """The best predictor for N(M, C_C) where cond is 1, for N(0, C_U) where it is 0."""
    a, cond = TABLE[t][:, None], cond[:, None]
    c, m = jnp.where(cond, C_C, C_U), jnp.where(cond, M, 0.0)
    return jnp.sqrt(1 - a) * (x_t - jnp.sqrt(a) * m) / (a * c + 1 - a)


def linear_grad_fn(x_t, t):
    """grad log p(y | x_t) = (eps_u - eps_c) / sqrt(1 - a), as a classifier gives it."""
    null, one = (jnp.full(t.shape, y) for y in (0, 1))
    difference = linear_eps_fn(x_t, t, null) - linear_eps_fn(x_t, t, one)
    return difference / jnp.sqrt(1 - TABLE[t])[:, None]


@partial(jax.jit, static_argnums=0)
def linear_sample(how, scale, x_T, keys):
    """Samples of the linear model by one of the three ways."""
    null, one = jnp.zeros(len(x_T), int), jnp.ones(len(x_T), int)
    settings = dict(alphas_cumprod=A, clip=False)

    def eps_u(x_t, t):
        return linear_eps_fn(x_t, t, null)

    def grad_fn(x_t, t):
        return scale * linear_grad_fn(x_t, t)

    if how == "algorithm 1":
        return ancestral(eps_u, x_T, keys, grad_fn=grad_fn, **settings)
    if how == "algorithm 2":
        eps_fn = classifier_eps(eps_u, grad_fn, alphas_cumprod=A)
    else:
        eps_fn = classifier_free(linear_eps_fn, one, null, scale)
    return ddim(eps_fn, x_T, **settings)


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("how", WAYS)
def test_linear_guidance_has_the_moments_of_its_differential_equation(how, scale):
    """Of n = 16,384 the mean errs by 1 / 128 and the spread by 1 / 181 of the spread.

    The ODE's spread also has a closed form: dz / z = sigma d(sigma) (...) integrates to
    c_u^((1 - s) / 2) c_c^(s / 2), the geometric tilt from c_u through c_c.
    """
    stochastic = how == "algorithm 1"
    mean, variance = linear_guidance_moments(scale, stochastic)
    if not stochastic:
        geometric = C_U ** (1 - scale) * C_C**scale
        np.testing.assert_allclose(variance, geometric, rtol=2e-3)
    x = np.asarray(linear_sample(how, scale, *start(16_384)))
    spread = variance**0.5
    assert abs(x.mean() - mean) < (4 / 128 + 0.03) * spread
    assert abs(x.std() / spread - 1) < 4 / 181 + 0.03


def test_classifier_free_runs_one_batch_of_both_halves_or_one_half():
    sizes, num = [], 3
    x_t, t = jnp.zeros((num, 1)), jnp.zeros(num, int)

    def counting_fn(x_t, t, cond):
        sizes.append(len(x_t))
        assert t.shape == cond["label"].shape == (len(x_t),)
        return x_t

    pair = labels(num, 0), labels(num, NULL)
    for scale in (3.0, 1.0, 1):
        classifier_free(counting_fn, *pair, scale)(x_t, t)
    assert sizes == [6, 3, 3]


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_learned_variance_comes_from_the_conditional_half(scale):
    def pair_fn(x_t, t, cond):
        return x_t + cond[:, None], jnp.broadcast_to(10.0 * cond[:, None], x_t.shape)

    x_t, t = jnp.zeros((2, 1)), jnp.zeros(2, int)
    guided = classifier_free(pair_fn, jnp.array([1.0, 2.0]), jnp.zeros(2), scale)
    eps, v = guided(x_t, t)
    np.testing.assert_allclose(eps[:, 0], scale * np.array([1.0, 2.0]))
    np.testing.assert_allclose(v[:, 0], [10, 20])
    shifted = classifier_eps(guided, lambda x, t: jnp.ones_like(x), alphas_cumprod=A)
    eps_shifted, v = shifted(x_t, t)
    np.testing.assert_allclose(eps_shifted, eps - (1 - A[0]) ** 0.5, rtol=1e-5)
    np.testing.assert_allclose(v[:, 0], [10, 20])


def test_a_scale_for_each_image_is_that_images():
    """Three images of three channels, where broadcasting along the wrong axis hides."""
    x_t, t = jax.random.normal(jax.random.key(0), (3, 2, 2, 3)), jnp.arange(3)
    cond, scales = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 2.0, 5.0])
    label = jnp.array([0, 1, 2])

    def eps_fn(x_t, t, cond):
        return x_t * cond[:, None, None, None]

    def logits_fn(x_t, t):
        return jnp.square(x_t).sum((1, 2))

    def both(scale):
        guided = classifier_free(eps_fn, cond, jnp.zeros(3), scale)(x_t, t)
        return guided, classifier_grad(logits_fn, label, scale)(x_t, t)

    together = both(scales)
    for i, scale in enumerate(scales):
        for found, alone in zip(together, both(float(scale)), strict=True):
            np.testing.assert_allclose(found[i], alone[i], rtol=1e-5)
    with pytest.raises(ValueError, match="guidance_scale must be a number or one an"):
        both(jnp.ones((3, 1)))


def test_conditions_that_differ_in_shape_are_refused():
    with pytest.raises(ValueError, match="null_cond"):
        samplers.guidance.classifier_free(
            model_fn, {"label": jnp.zeros(3)}, {"label": jnp.zeros(2)}, 2.0
        )
    with pytest.raises(ValueError, match="null_cond"):
        classifier_free(model_fn, {"label": jnp.zeros(3)}, jnp.zeros(3), 2.0)
