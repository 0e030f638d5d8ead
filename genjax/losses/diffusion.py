"""Losses of denoising diffusion: weighted regressions and the variational bound.

Steps count t = 0..T-1; see `genjax.processes`. `alphas_cumprod` [T] is best a float64
numpy array from `genjax.schedules`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import log_ndtr

from genjax import processes
from genjax.losses.variational import gaussian_kl
from genjax.processes import Table, gather, namespace


def simple_loss(
    eps_fn: Callable, x0: Array, key: Array, *, alphas_cumprod: Table
) -> Array:
    """Noise-prediction loss of DDPM, one value per image.

    || eps - eps_fn(sqrt(a) x0 + sqrt(1 - a) eps, t) ||^2 with a = alphas_cumprod[t].
    The norm is averaged over pixels, not summed, so the value does not grow with
    resolution. The paper counts t = 1..T; here t = 0..T-1.

    Args:
        eps_fn: Noise predictor, (float [B, ...], int [B]) -> float [B, ...].
        x0: Clean images, float [B, ...] in [-1, 1].
        key: PRNG key; t and eps are drawn from it.
        alphas_cumprod: Signal power kept up to step t, float [T], falling, in (0, 1).

    Returns:
        Squared error per image, float [B], in units of the noise variance.

    Raises:
        ValueError: If `eps_fn` does not preserve the shape of `x0`.

    Reference:
        Ho et al., Denoising Diffusion Probabilistic Models, arXiv:2006.11239, Eq. 14.
    """
    return denoising_loss(eps_fn, x0, key, alphas_cumprod=alphas_cumprod)


def denoising_loss(
    predict_fn: Callable,
    x0: Array,
    key: Array,
    *,
    alphas_cumprod: Table,
    prediction: str = "eps",
    weights: Table | None = None,
    t: Array | None = None,
) -> Array:
    """Weighted squared error of a prediction of eps, x0 or v, one value per image.

    weights[t] || target - predict_fn(x_t, t) ||^2, averaged over pixels.

    Args:
        predict_fn: (x_t float [B, ...], t int [B]) -> float [B, ...], or a pair of
            that and the v of a learned variance, which is not used.
        x0: Clean images, float [B, ...] in [-1, 1].
        key: PRNG key; eps, and t unless given, are drawn from it.
        alphas_cumprod: Signal power kept up to step t, float [T], falling, in (0, 1).
        prediction: What `predict_fn` predicts, "eps", "x0" or "v".
        weights: Weight of the error in that prediction at each step, float [T], from
            `snr_weights` and its like with the same `prediction`; None is all ones.
        t: Steps, int [B]; uniform if None.

    Returns:
        Weighted squared error per image, float [B].

    Raises:
        ValueError: For another prediction, if `predict_fn` changes the shape, or if
            `weights` are not one a step.

    Reference: Ho et al., arXiv:2006.11239, Eq. 14; Salimans & Ho, arXiv:2202.00512,
        Sec. 4 and Appendix D.
    """
    processes.check_prediction(prediction)
    if weights is not None and weights.shape != alphas_cumprod.shape:
        raise ValueError(
            f"weights must be one a step, {alphas_cumprod.shape}, got {weights.shape}"
        )
    t, eps = _draw(x0, key, alphas_cumprod, t)
    x_t = processes.q_sample(x0, t, eps, alphas_cumprod=alphas_cumprod)
    predicted, _ = processes.split_output(predict_fn(x_t, t), x0)
    if prediction == "v":
        target = processes.v_from_x0_eps(x0, eps, t, alphas_cumprod=alphas_cumprod)
    else:
        target = {"eps": eps, "x0": x0}[prediction]
    loss = _mean(jnp.square(predicted - target))
    return loss if weights is None else gather(weights, t, loss) * loss


def constant_weights(alphas_cumprod: Table, prediction: str = "eps") -> Table:
    """Weights that count squared errors of x0 alike at every step.

    Like every function of weights here, it fixes one objective, a weight w_t of the
    squared error of x0, and returns what that is in units of `prediction`, in which
    the network's error is measured: w_t for "x0", w_t / SNR for "eps" and
    w_t / (SNR + 1) for "v", where SNR = a / (1 - a).

    Args:
        alphas_cumprod: Signal power kept up to step t, float [T], falling, in (0, 1).
        prediction: What the network predicts, "eps", "x0" or "v".

    Returns:
        Float [T], for the `weights` of `denoising_loss` with the same `prediction`.

    Raises:
        ValueError: For another prediction.
    """
    return _weights(lambda xp, snr: xp.ones_like(snr), alphas_cumprod, prediction)


def snr_weights(alphas_cumprod: Table, prediction: str = "eps") -> Table:
    """w_t = SNR: counts errors of eps alike at every step, as DDPM's simple loss does.

    Arguments and result as in `constant_weights`.
    """
    return _weights(lambda xp, snr: snr, alphas_cumprod, prediction)


def truncated_snr_weights(alphas_cumprod: Table, prediction: str = "eps") -> Table:
    """w_t = max(SNR, 1): no step counts less than pure noise does for x0.

    Arguments and result as in `constant_weights`.

    Reference: Salimans & Ho, arXiv:2202.00512, Sec. 4.
    """
    return _weights(lambda xp, snr: xp.maximum(snr, 1), alphas_cumprod, prediction)


def min_snr_weights(
    alphas_cumprod: Table, prediction: str = "eps", gamma: float = 5.0
) -> Table:
    """w_t = min(SNR, gamma): caps what almost clean images count.

    Arguments and result as in `constant_weights`.

    Reference: Hang et al., arXiv:2303.09556, Sec. 3.4.
    """
    return _weights(lambda xp, snr: xp.minimum(snr, gamma), alphas_cumprod, prediction)


def p2_weights(
    alphas_cumprod: Table, prediction: str = "eps", k: float = 1.0, gamma: float = 1.0
) -> Table:
    """w_t = SNR / (k + SNR)^gamma, that is 1 / (k + SNR)^gamma for errors of eps.

    Arguments and result as in `constant_weights`.

    Reference: Choi et al., arXiv:2204.00227, Eq. 8, where the weight multiplies the
        simple loss of DDPM.
    """
    return _weights(
        lambda xp, snr: snr / (k + snr) ** gamma, alphas_cumprod, prediction
    )


class Bound(NamedTuple):
    """Terms of -ELBO in nats per image; their sum bounds -log P(x0) from above.

    Attributes:
        prior: KL(q(x_T | x0) || N(0, I)), the paper's L_T, float [B].
        denoising: KL(q(x_{t-1} | x_t, x0) || p(x_{t-1} | x_t)) at t = 1..T-1, the
            paper's L_1 to L_{T-1}, float [B, T - 1].
        decoder: -log P(x0 | x_t) at t = 0, the paper's L_0, float [B].
    """

    prior: Array
    denoising: Array
    decoder: Array

    @property
    def total(self) -> Array:
        """The whole bound in nats, float [B]."""
        return self.prior + self.denoising.sum(axis=1) + self.decoder


def variational_bound(
    eps_fn: Callable,
    x0: Array,
    key: Array,
    *,
    alphas_cumprod: Table,
    variance: str = "small",
    clip: bool = True,
) -> Bound:
    """The bound on -log P(x0), term by term, with fresh noise at each step.

    One model call a step inside a `lax.map`, so memory does not grow with T. P is the
    model that `samplers.diffusion.ancestral` draws from with the same settings, except
    that the last step ends in one of 256 levels.

    Args:
        eps_fn: Noise predictor, (x_t float [B, ...], t int [B]) -> float [B, ...], or
            a pair (eps, v) if the variance is learned.
        x0: Images on the 256 levels k / 127.5 - 1, float [B, ...] in [-1, 1].
        key: PRNG key; the noise of each step is drawn from it.
        alphas_cumprod: Signal power kept up to step t, float [T], falling, in (0, 1).
        variance: "small", "large" or "learned", as in `processes.reverse`.
        clip: Whether to hold the guess of x0 in [-1, 1], as in `processes.reverse`.

    Returns:
        The terms in nats per image, summed over pixels.

    Reference: Ho et al., arXiv:2006.11239, Eq. 5.
    """

    def term(t: Array) -> Array:
        return vlb_term(
            eps_fn,
            x0,
            jnp.full(x0.shape[:1], t),
            jax.random.fold_in(key, t),
            alphas_cumprod=alphas_cumprod,
            variance=variance,
            clip=clip,
        )

    terms = jax.lax.map(term, jnp.arange(alphas_cumprod.shape[0]))
    prior = prior_kl(x0, alphas_cumprod=alphas_cumprod)
    return Bound(prior=prior, denoising=terms[1:].T, decoder=terms[0])


def prior_kl(x0: Array, *, alphas_cumprod: Table) -> Array:
    """KL(q(x_T | x0) || N(0, I)) in nats per image, [B]: the paper's L_T.

    Reference: Ho et al., arXiv:2006.11239, Eq. 5.
    """
    xp, a = namespace(alphas_cumprod), alphas_cumprod[-1]
    # -log(1 - a) - a is of order a^2, which is lost if the two are added later.
    constant = -xp.log1p(-a) - a
    return 0.5 * _sum(a * jnp.square(x0) + constant)


def vlb_term(
    eps_fn: Callable,
    x0: Array,
    t: Array,
    key: Array,
    *,
    alphas_cumprod: Table,
    variance: str = "learned",
    clip: bool = False,
) -> Array:
    """One term of the bound for each image: the KL at t >= 1, the decoder at t = 0.

    With t uniform, T times the mean of these estimates the bound but for the prior's
    KL, which has no parameters. With t from `importance_sample`, multiply by its
    weights first.

    Args:
        eps_fn: As in `variational_bound`.
        x0: Images on the 256 levels, float [B, ...] in [-1, 1].
        t: Steps, int [B].
        key: PRNG key; eps is drawn from it.
        alphas_cumprod: Signal power kept up to step t, float [T].
        variance: As in `processes.reverse`.
        clip: As in `processes.reverse`; a clipped guess passes no gradient.

    Returns:
        Nats per image, summed over pixels, float [B].

    Reference: Ho et al., arXiv:2006.11239, Eq. 5; Nichol & Dhariwal, arXiv:2102.09672,
        Eq. 4-7.
    """
    eps = jax.random.normal(key, x0.shape, x0.dtype)
    x_t = processes.q_sample(x0, t, eps, alphas_cumprod=alphas_cumprod)
    settings = dict(alphas_cumprod=alphas_cumprod, variance=variance, clip=clip)
    return _vlb_term_of_output(eps_fn(x_t, t), x0, x_t, t, **settings)


def hybrid_loss(
    eps_fn: Callable,
    x0: Array,
    key: Array,
    *,
    alphas_cumprod: Table,
    vlb_weight: float = 0.001,
    t: Array | None = None,
) -> Array:
    """L_simple + vlb_weight L_vlb, one value per image, with one model call.

    L_vlb, here T times the term at the same t, teaches the variance alone: no gradient
    passes to eps through it. It is in nats per dimension, to match the pixel mean of
    L_simple; the authors' code has bits, which is `vlb_weight=0.001 / log(2)` here.

    Args:
        eps_fn: (x_t float [B, ...], t int [B]) -> (eps, v), both float [B, ...]; v in
            [-1, 1] sets the variance, see `processes.reverse`.
        x0: Images on the 256 levels, float [B, ...] in [-1, 1].
        key: PRNG key; eps, and t unless given, are drawn from it.
        alphas_cumprod: Signal power kept up to step t, float [T], falling, in (0, 1).
        vlb_weight: The paper's lambda.
        t: Steps, int [B]; uniform if None.

    Returns:
        Loss per image, float [B].

    Raises:
        ValueError: If `eps_fn` does not return a pair of arrays shaped as `x0`.

    Reference: Nichol & Dhariwal, arXiv:2102.09672, Eq. 16.
    """
    t, eps = _draw(x0, key, alphas_cumprod, t)
    x_t = processes.q_sample(x0, t, eps, alphas_cumprod=alphas_cumprod)
    eps_hat, v = processes.split_output(eps_fn(x_t, t), x0)
    if v is None:
        raise ValueError("hybrid_loss needs a model that returns (eps, v)")
    vlb = _vlb_term_of_output(
        (jax.lax.stop_gradient(eps_hat), v),
        x0,
        x_t,
        t,
        alphas_cumprod=alphas_cumprod,
        variance="learned",
        clip=False,
    )
    num_steps, num_dims = alphas_cumprod.shape[0], x0[0].size
    simple = _mean(jnp.square(eps_hat - eps))
    return simple + vlb_weight * num_steps * vlb / num_dims


def discretized_gaussian_log_prob(x0: Array, mean: Array, log_var: Array) -> Array:
    """Log-mass that a Gaussian puts on each pixel's bin among 256 levels.

    Bins are 2/255 wide around the levels; those of -1 and 1 reach to infinity, so that
    the levels of a pixel share out a mass of one. Exact in the tails: no mass is cut
    off at a floor, so that a gradient is left however far the mean is.

    Args:
        x0: Images on the levels k / 127.5 - 1, float [...].
        mean: Float, same shape.
        log_var: Float, same shape or one that broadcasts to it.

    Returns:
        Nats per pixel, float [...].

    Reference: Ho et al., arXiv:2006.11239, Eq. 13.
    """
    inverse_sigma = jnp.exp(-0.5 * log_var)
    at_end = jnp.abs(x0) > 1 - 0.5 / 255
    # A cdf near one has no digits left to subtract, and the mirror image near zero has.
    # The bins at the ends are single cdfs, of the side that is open.
    mirror = jnp.where(at_end, x0 > 0, x0 > mean)
    distance = jnp.where(mirror, mean - x0, x0 - mean)
    log_upper = log_ndtr((distance + 1 / 255) * inverse_sigma)
    log_lower = log_ndtr((distance - 1 / 255) * inverse_sigma)
    # log(exp(u) - exp(l)) = u + log(1 - exp(l - u)), and expm1 keeps a narrow bin. At
    # the ends l - u may round to zero, where even an unused logarithm has no gradient.
    difference = jnp.where(at_end, -1.0, log_lower - log_upper)
    return log_upper + jnp.where(at_end, 0.0, jnp.log(-jnp.expm1(difference)))


class ImportanceState(NamedTuple):
    """What the importance sampler remembers; a pytree of arrays.

    Attributes:
        history: The last squares of each step's loss, float [T, size].
        counts: How many losses of each step have been seen, int [T].
    """

    history: Array
    counts: Array


def importance_init(num_steps: int, size: int = 10) -> ImportanceState:
    """The empty memory, for a schedule of `num_steps` and `size` losses a step."""
    return ImportanceState(
        jnp.zeros((num_steps, size)), jnp.zeros(num_steps, jnp.int32)
    )


def importance_sample(
    state: ImportanceState, key: Array, batch_size: int
) -> tuple[Array, Array]:
    """Draws steps in proportion to sqrt(E[L_t^2]), uniformly until each row is full.

    Args:
        state: Losses seen so far.
        key: PRNG key.
        batch_size: B.

    Returns:
        (t int [B], weights float [B]) such that the mean of weights * L_t is in
        expectation the mean of L_t over uniform steps: weights = 1 / (T p_t).

    Reference: Nichol & Dhariwal, arXiv:2102.09672, Eq. 18.
    """
    log_p = jnp.log(importance_probabilities(state))
    t = jax.random.categorical(key, log_p, shape=(batch_size,)).astype(jnp.int32)
    return t, jnp.exp(-log_p[t]) / log_p.shape[0]


def importance_probabilities(state: ImportanceState) -> Array:
    """The chance of each step to be drawn, float [T]."""
    num_steps, size = state.history.shape
    root = jnp.sqrt(jnp.mean(state.history, axis=1))
    ready = jnp.all(state.counts >= size) & (jnp.sum(root) > 0)
    p = root / jnp.where(ready, jnp.sum(root), 1)
    # A step whose losses were all zero would never be seen again: as in the authors'
    # code, one draw in a thousand is uniform.
    p = 0.999 * p + 0.001 / num_steps
    return jnp.where(ready, p, 1 / num_steps)


def importance_update(
    state: ImportanceState, t: Array, losses: Array
) -> ImportanceState:
    """Remembers `losses` [B], not multiplied by weights, of the steps `t` int [B].

    Each takes the place of its step's oldest; a step may occur more than once.
    """

    def remember(state: ImportanceState, item: tuple[Array, Array]):
        step, loss = item
        slot = state.counts[step] % state.history.shape[1]
        history = state.history.at[step, slot].set(jnp.square(loss))
        return ImportanceState(history, state.counts.at[step].add(1)), None

    return jax.lax.scan(remember, state, (t, jax.lax.stop_gradient(losses)))[0]


def _vlb_term_of_output(output, x0, x_t, t, *, alphas_cumprod, variance, clip):
    mean_p, log_var_p = processes.reverse(
        output, x_t, t, alphas_cumprod=alphas_cumprod, variance=variance, clip=clip
    )
    mean_q, _, log_var_q = processes.posterior(
        x0, x_t, t, alphas_cumprod=alphas_cumprod
    )
    kl = _sum(gaussian_kl(mean_q, log_var_q, mean_p, log_var_p))
    nll = -_sum(discretized_gaussian_log_prob(x0, mean_p, log_var_p))
    return jnp.where(t == 0, nll, kl)


def _weights(x0_weight_fn, alphas_cumprod, prediction):
    processes.check_prediction(prediction)
    snr = alphas_cumprod / (1 - alphas_cumprod)
    weights = x0_weight_fn(namespace(alphas_cumprod), snr)
    return weights / {"x0": np.ones(()), "eps": snr, "v": snr + 1}[prediction]


def _draw(x0, key, alphas_cumprod, t):
    t_key, eps_key = jax.random.split(key)
    if t is None:
        t = jax.random.randint(t_key, x0.shape[:1], 0, alphas_cumprod.shape[0])
    return t, jax.random.normal(eps_key, x0.shape, x0.dtype)


def _mean(x: Array) -> Array:
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))


def _sum(x: Array) -> Array:
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))
