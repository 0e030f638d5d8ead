"""The Gaussian diffusion process: forward, its posterior, and the model's reverse step.

Steps count t = 0..T-1 where DDPM's paper counts 1..T: x_t here has been noised t + 1
times, and x0 is the clean image, not x_t at t = 0. The eps, x0, v and score of one x_t
are the same knowledge in four units, and the small functions here convert them.

In every function `t` is int [B], other arrays are float [B, ...], and `alphas_cumprod`
[T] is the signal power kept up to step t, falling, in (0, 1). As a float64 numpy array,
which `schedules.alphas_cumprod` returns, its coefficients are computed in float64.
"""

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

Table = Array | np.ndarray


def namespace(table: Table) -> ModuleType:
    """numpy for a numpy array, so that float64 survives; jax.numpy for a jax Array."""
    return np if isinstance(table, np.ndarray) else jnp


def gather(table: Table, t: Array, x: Array) -> Array:
    """Looks up table[t] for each image: float [B, 1, ...], to multiply x [B, ...].

    The result is float32, or float64 if `x` is.

    Raises:
        ValueError: If `t` is not int [B].
    """
    if t.shape != x.shape[:1] or not jnp.issubdtype(t.dtype, jnp.integer):
        raise ValueError(
            f"t must be one int per image, {x.shape[:1]}, got {t.dtype} {t.shape}"
        )
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.asarray(table, dtype)[t].reshape(t.shape + (1,) * (x.ndim - 1))


def q_sample(x0: Array, t: Array, eps: Array, *, alphas_cumprod: Table) -> Array:
    """Noises x0 to step t: sqrt(a) x0 + sqrt(1 - a) eps with a = alphas_cumprod[t].

    Reference: Ho et al., arXiv:2006.11239, Eq. 4.
    """
    return _mix(x0, eps, t, *_scales(alphas_cumprod))


def x0_from_eps(eps: Array, x_t: Array, t: Array, *, alphas_cumprod: Table) -> Array:
    """x0 = (x_t - sqrt(1 - a) eps) / sqrt(a)."""
    alpha, sigma = _scales(alphas_cumprod)
    return _mix(x_t, eps, t, 1 / alpha, -sigma / alpha)


def eps_from_x0(x0: Array, x_t: Array, t: Array, *, alphas_cumprod: Table) -> Array:
    """eps = (x_t - sqrt(a) x0) / sqrt(1 - a)."""
    alpha, sigma = _scales(alphas_cumprod)
    return _mix(x_t, x0, t, 1 / sigma, -alpha / sigma)


def v_from_x0_eps(x0: Array, eps: Array, t: Array, *, alphas_cumprod: Table) -> Array:
    """v = sqrt(a) eps - sqrt(1 - a) x0, the velocity of x_t on the unit circle.

    Reference: Salimans & Ho, arXiv:2202.00512, Appendix D.
    """
    alpha, sigma = _scales(alphas_cumprod)
    return _mix(eps, x0, t, alpha, -sigma)


def x0_from_v(v: Array, x_t: Array, t: Array, *, alphas_cumprod: Table) -> Array:
    """x0 = sqrt(a) x_t - sqrt(1 - a) v."""
    alpha, sigma = _scales(alphas_cumprod)
    return _mix(x_t, v, t, alpha, -sigma)


def eps_from_v(v: Array, x_t: Array, t: Array, *, alphas_cumprod: Table) -> Array:
    """eps = sqrt(1 - a) x_t + sqrt(a) v."""
    alpha, sigma = _scales(alphas_cumprod)
    return _mix(x_t, v, t, sigma, alpha)


def score_from_eps(eps: Array, t: Array, *, alphas_cumprod: Table) -> Array:
    """grad log p(x_t) = -eps / sqrt(1 - a), for eps the mean noise given x_t."""
    return -eps / gather(_scales(alphas_cumprod)[1], t, eps)


def eps_from_score(score: Array, t: Array, *, alphas_cumprod: Table) -> Array:
    """eps = -sqrt(1 - a) grad log p(x_t)."""
    return -score * gather(_scales(alphas_cumprod)[1], t, score)


def as_eps_fn(
    predict_fn: Callable, prediction: str, *, alphas_cumprod: Table
) -> Callable:
    """Turns a predictor of x0 or v into a predictor of eps, which samplers expect.

    Args:
        predict_fn: (x_t [B, ...], t [B]) -> [B, ...], or a pair of that and a second
            output, which is passed through (the v of a learned variance).
        prediction: What it predicts, "eps", "x0" or "v".
        alphas_cumprod: Of the schedule that `t` counts in, [T].

    Returns:
        (x_t, t) -> eps, or the pair (eps, second output).

    Raises:
        ValueError: For another prediction.
    """
    check_prediction(prediction)
    convert = {"x0": eps_from_x0, "v": eps_from_v}.get(prediction)
    if convert is None:
        return predict_fn

    def eps_fn(x_t: Array, t: Array):
        first, second = split_output(predict_fn(x_t, t), x_t)
        eps = convert(first, x_t, t, alphas_cumprod=alphas_cumprod)
        return eps if second is None else (eps, second)

    return eps_fn


def posterior(
    x0: Array, x_t: Array, t: Array, *, alphas_cumprod: Table
) -> tuple[Array, Array, Array]:
    """The Gaussian q(x_{t-1} | x_t, x0), one step less noisy than x_t.

    At t = 0 that step ends in x0 itself: the mean is x0 and the variance zero. Its
    log-variance, which decoders and samplers use, is that of t = 1 instead (log beta
    if the schedule has a single step).

    Returns:
        (mean [B, ...], variance [B, 1, ...], clipped log-variance [B, 1, ...]).

    Reference: Ho et al., arXiv:2006.11239, Eq. 6-7.
    """
    tables = _posterior_tables(alphas_cumprod)
    mean = _mix(x0, x_t, t, tables.scale_x0, tables.scale_x_t)
    return mean, gather(tables.variance, t, x0), gather(tables.log_var, t, x0)


def reverse(
    output: Array | tuple[Array, Array],
    x_t: Array,
    t: Array,
    *,
    alphas_cumprod: Table,
    variance: str = "small",
    clip: bool = True,
) -> tuple[Array, Array]:
    """The model's Gaussian p(x_{t-1} | x_t): the posterior at its guess of x0.

    Args:
        output: What the model said at (x_t, t): eps [B, ...], or a pair (eps, v).
        x_t: Noisy images, float [B, ...].
        t: Steps, int [B], as indices of `alphas_cumprod`.
        alphas_cumprod: Kept power [T], of a whole schedule or of some of its steps.
        variance: "small" is the posterior's variance, right for a single image;
            "large" is beta, right for white noise; "learned" lies (v + 1) / 2 of the
            way from the small to the large one in logarithms, v normally in [-1, 1].
            At t = 0 the small and, as in DDPM's code, the large are those of
            `posterior`'s clipped log-variance; the learned one still reaches to beta.
        clip: Whether to hold the guess of x0 in [-1, 1].

    Returns:
        (mean [B, ...], log-variance [B, ...] or [B, 1, ...]).

    Raises:
        ValueError: For another variance, a shape other than that of `x_t`, or no v for
            a learned variance.

    Reference: Ho et al., arXiv:2006.11239, Sec. 3.2; Nichol & Dhariwal,
        arXiv:2102.09672, Eq. 15, where the network's output is in [0, 1].
    """
    eps, v = split_output(output, x_t)
    x0 = x0_from_eps(eps, x_t, t, alphas_cumprod=alphas_cumprod)
    x0 = jnp.clip(x0, -1, 1) if clip else x0
    mean, _, log_var = posterior(x0, x_t, t, alphas_cumprod=alphas_cumprod)
    log_beta = gather(_posterior_tables(alphas_cumprod).log_betas, t, x_t)
    if variance == "small":
        return mean, log_var
    if variance == "large":
        first = (t == 0).reshape(log_var.shape)
        return mean, jnp.where(first, log_var, log_beta)
    if variance != "learned":
        raise ValueError(
            f"variance must be 'small', 'large' or 'learned', got {variance!r}"
        )
    if v is None:
        raise ValueError("a learned variance needs a model that returns (eps, v)")
    return mean, log_var + (v + 1) / 2 * (log_beta - log_var)


def split_output(
    output: Array | tuple[Array, Array], x_t: Array
) -> tuple[Array, Array | None]:
    """Splits a model's output into (eps, v); v is None for a model without one.

    Raises:
        ValueError: If eps or v has another shape than `x_t`.
    """
    eps, v = output if isinstance(output, tuple) else (output, None)
    if eps.shape != x_t.shape or (v is not None and v.shape != x_t.shape):
        shapes = eps.shape if v is None else (eps.shape, v.shape)
        raise ValueError(f"the model must keep shape {x_t.shape}, got {shapes}")
    return eps, v


def check_alphas_cumprod(alphas_cumprod: Table) -> None:
    """Refuses what is not a kept power, betas above all; a jax Array may be traced.

    Raises:
        ValueError: Unless it has one axis, and as a numpy array falls within (0, 1].
    """
    if jnp.ndim(alphas_cumprod) != 1:
        raise ValueError(
            f"alphas_cumprod must have shape [T], got {jnp.shape(alphas_cumprod)}"
        )
    if not isinstance(alphas_cumprod, np.ndarray):
        return
    inside = (alphas_cumprod > 0).all() and (alphas_cumprod <= 1).all()
    if not inside or not (np.diff(alphas_cumprod) < 0).all():
        raise ValueError(
            "alphas_cumprod must fall within (0, 1], got values from "
            f"{alphas_cumprod[0]:.3g} to {alphas_cumprod[-1]:.3g}; of betas, take "
            "schedules.alphas_cumprod(betas)"
        )


def check_prediction(prediction: str) -> None:
    """Raises ValueError unless `prediction` is "eps", "x0" or "v"."""
    if prediction not in ("eps", "x0", "v"):
        raise ValueError(f"prediction must be 'eps', 'x0' or 'v', got {prediction!r}")


class _PosteriorTables(NamedTuple):
    scale_x0: Table  # Each [T]; the mean is scale_x0 x0 + scale_x_t x_t.
    scale_x_t: Table
    variance: Table
    log_var: Table
    log_betas: Table


def _posterior_tables(alphas_cumprod: Table) -> _PosteriorTables:
    check_alphas_cumprod(alphas_cumprod)
    a, xp = alphas_cumprod, namespace(alphas_cumprod)
    a_prev = xp.concatenate([xp.ones_like(a[:1]), a[:-1]])
    betas = 1 - a / a_prev
    variance = betas * (1 - a_prev) / (1 - a)
    positive = variance[1:] if a.shape[0] > 1 else betas
    return _PosteriorTables(
        scale_x0=xp.sqrt(a_prev) * betas / (1 - a),
        scale_x_t=xp.sqrt(a / a_prev) * (1 - a_prev) / (1 - a),
        variance=variance,
        log_var=xp.log(xp.concatenate([positive[:1], variance[1:]])),
        log_betas=xp.log(betas),
    )


def _scales(alphas_cumprod: Table) -> tuple[Table, Table]:
    """Scales of signal and noise: sqrt(a) and sqrt(1 - a)."""
    check_alphas_cumprod(alphas_cumprod)
    xp = namespace(alphas_cumprod)
    return xp.sqrt(alphas_cumprod), xp.sqrt(1 - alphas_cumprod)


def _mix(x: Array, y: Array, t: Array, scale_x: Table, scale_y: Table) -> Array:
    if x.shape != y.shape:
        raise ValueError(f"expected two arrays of one shape, got {x.shape}, {y.shape}")
    return gather(scale_x, t, x) * x + gather(scale_y, t, y) * y
