"""Samplers of denoising diffusion; each is one `lax.scan`, to be put under `jax.jit`.

Steps count t = 0..T-1; see `genjax.processes`. A sampler may visit a few `steps` only,
as from `schedules.timesteps`. It then runs the shorter process whose kept power is
alphas_cumprod[steps], while the model is still told t as it was trained. There is one
PRNG key per image, so that an image does not depend on its batch.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from genjax import processes
from genjax.processes import Table, gather, namespace

Steps = Sequence[int] | np.ndarray


def initial_noise(keys: Array, shape: tuple[int, ...]) -> Array:
    """White noise to start from, float [N, *shape]; image i depends on keys[i] alone.

    The same keys may then go to a sampler, which draws other numbers from them.

    Args:
        keys: Typed PRNG keys, [N], as from `jax.random.split(jax.random.key(0), N)`.
        shape: Shape of one image, (H, W, C).
    """
    return _noise(keys, 0, tuple(shape), jnp.float32)


def ancestral(
    eps_fn: Callable,
    x_T: Array,
    keys: Array,
    *,
    alphas_cumprod: Table,
    steps: Steps | None = None,
    variance: str = "small",
    clip: bool = True,
    grad_fn: Callable | None = None,
) -> Array:
    """Draws x_{t-1} from the model's Gaussian at each step; the last gives its mean.

    Args:
        eps_fn: Noise predictor, (x_t float [N, ...], t int [N]) -> float [N, ...], or a
            pair (eps, v), where v is needed if the variance is learned.
        x_T: Initial noise, float [N, ...].
        keys: Typed PRNG keys, [N].
        alphas_cumprod: Signal power kept up to step t, float [T], falling, in (0, 1).
        steps: Steps to visit, rising, in [0, T); all if None.
        variance: "small", "large" or "learned", as in `processes.reverse`; on a few
            steps they are those of the shorter process.
        clip: Whether to hold each guess of x0 in [-1, 1].
        grad_fn: Classifier guidance: (x_t, t) -> float [N, ...], to which the mean
            moves by variance * grad_fn(x_t, t); see `guidance.classifier_grad`.

    Returns:
        Images, float [N, ...].

    Raises:
        ValueError: For steps, keys or shapes that do not fit.

    Reference: Ho et al., arXiv:2006.11239, Algorithm 2; for fewer steps Nichol &
        Dhariwal, arXiv:2102.09672, Eq. 19; for `grad_fn` Dhariwal & Nichol,
        arXiv:2105.05233, Algorithm 1.
    """
    _check_keys(keys, x_T)
    x_T = _at_least_float32(x_T)
    steps, a = _respace(alphas_cumprod, steps)
    settings = dict(alphas_cumprod=a, variance=variance, clip=clip)

    def step(x_t: Array, index: Array):
        i, t = _fill(index, x_t), _fill(steps[index], x_t)
        mean, log_var = processes.reverse(eps_fn(x_t, t), x_t, i, **settings)
        if grad_fn is not None:
            mean = mean + jnp.exp(log_var) * grad_fn(x_t, t)
        noise = _noise(keys, index, x_t.shape[1:], x_t.dtype)
        return mean + jnp.where(index > 0, jnp.exp(0.5 * log_var), 0) * noise, None

    return jax.lax.scan(step, x_T, jnp.arange(len(steps)), reverse=True)[0]


def ddim(
    eps_fn: Callable,
    x_T: Array,
    keys: Array | None = None,
    *,
    alphas_cumprod: Table,
    steps: Steps | None = None,
    eta: float = 0.0,
    clip: bool = True,
) -> Array:
    """Guesses x0 and noises it again to the next step with the same noise.

    Args:
        eps_fn: Noise predictor, (x_t float [N, ...], t int [N]) -> float [N, ...], or a
            pair (eps, v), of which v is not used.
        x_T: Initial noise, float [N, ...].
        keys: Typed PRNG keys, [N]; needed if eta > 0.
        alphas_cumprod: Signal power kept up to step t, float [T], falling, in (0, 1).
        steps: Steps to visit, rising, in [0, T); all if None.
        eta: Share of fresh noise, a number in [0, 1]; 0 is deterministic, 1 has the
            posterior's variance.
        clip: Whether to hold each guess of x0 in [-1, 1]; eps is then what leads from
            the clipped guess to x_t.

    Returns:
        Images, float [N, ...]: the last guess of x0.

    Raises:
        ValueError: For eta out of range or without keys, or for steps, keys or shapes
            that do not fit.

    Reference: Song et al., arXiv:2010.02502, Eq. 12 and 16.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1], got {eta}")
    if eta > 0:
        if keys is None:
            raise ValueError(f"eta = {eta} adds noise: ddim needs one key per image")
        _check_keys(keys, x_T)
    x_T = _at_least_float32(x_T)
    steps, a = _respace(alphas_cumprod, steps)
    xp, a_prev = namespace(a), _shift(a)
    sigma = eta * xp.sqrt((1 - a_prev) / (1 - a) * (1 - a / a_prev))
    scale_eps = xp.sqrt(xp.maximum(1 - a_prev - sigma**2, 0))

    def step(x_t: Array, index: Array):
        i, t = _fill(index, x_t), _fill(steps[index], x_t)
        eps, _ = processes.split_output(eps_fn(x_t, t), x_t)
        x0 = processes.x0_from_eps(eps, x_t, i, alphas_cumprod=a)
        if clip:
            x0 = jnp.clip(x0, -1, 1)
            eps = processes.eps_from_x0(x0, x_t, i, alphas_cumprod=a)
        x_t = gather(xp.sqrt(a_prev), i, x_t) * x0 + gather(scale_eps, i, x_t) * eps
        if eta > 0:
            noise = _noise(keys, index, x_t.shape[1:], x_t.dtype)
            x_t = x_t + gather(sigma, i, x_t) * noise
        return x_t, None

    return jax.lax.scan(step, x_T, jnp.arange(len(steps)), reverse=True)[0]


def ddim_encode(
    eps_fn: Callable,
    x0: Array,
    *,
    alphas_cumprod: Table,
    steps: Steps | None = None,
) -> Array:
    """Runs DDIM backwards, from images to the noise that `ddim` maps to them.

    Each step takes the noise predicted where it starts, not where it ends, so
    ddim(..., eta=0, clip=False) on the same steps returns x0 up to an error that falls
    as 1 / S. The first step starts at the image, where the model is asked at steps[0].
    Leave out steps at which hardly any power is kept, such as a cosine schedule's last:
    there a network's error is divided by sqrt(alphas_cumprod), and nothing comes back.

    Args:
        eps_fn: As in `ddim`.
        x0: Images, float [N, ...].
        alphas_cumprod: Signal power kept up to step t, float [T], falling, in (0, 1).
        steps: Steps to visit, rising, in [0, T); all if None.

    Returns:
        Noise x_T, float [N, ...].

    Reference: Song et al., arXiv:2010.02502, Sec. 4.3.
    """
    x0 = _at_least_float32(x0)
    steps, a = _respace(alphas_cumprod, steps)
    a_prev = _shift(a)

    def step(x_t: Array, index: Array):
        i, t = _fill(index, x_t), _fill(steps[jnp.maximum(index - 1, 0)], x_t)
        eps, _ = processes.split_output(eps_fn(x_t, t), x_t)
        x0 = processes.x0_from_eps(eps, x_t, i, alphas_cumprod=a_prev)
        return processes.q_sample(x0, i, eps, alphas_cumprod=a), None

    return jax.lax.scan(step, x0, jnp.arange(len(steps)))[0]


def _respace(alphas_cumprod: Table, steps: Steps | None) -> tuple[Array, Table]:
    """The visited steps, int32 [S], and the power kept at them, [S]."""
    num_steps = alphas_cumprod.shape[0]
    steps = np.arange(num_steps) if steps is None else np.asarray(steps)
    rising = steps.ndim == 1 and steps.size and np.all(np.diff(steps) > 0)
    if not rising or steps[0] < 0 or steps[-1] >= num_steps:
        raise ValueError(f"steps must be rising and in [0, {num_steps}), got {steps}")
    return jnp.asarray(steps, jnp.int32), alphas_cumprod[steps]


def _shift(a: Table) -> Table:
    """The power kept one step earlier, [S]: that of the image itself, one, at first."""
    xp = namespace(a)
    return xp.concatenate([xp.ones_like(a[:1]), a[:-1]])


def _at_least_float32(x: Array) -> Array:
    """What the arithmetic of a step makes of x: a scan must end in what it began."""
    return jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32))


def _fill(number: Array, x: Array) -> Array:
    return jnp.full(x.shape[:1], number)


def _noise(keys: Array, index: Array | int, shape: tuple[int, ...], dtype) -> Array:
    """Noise number `index` of each image, [N, *shape]; the initial noise is number 0.

    Samplers add no noise at their last step, index 0, so that number is free.
    """

    def draw(key: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(key, index), shape, dtype)

    return jax.vmap(draw)(keys)


def _check_keys(keys: Array, x_T: Array) -> None:
    if keys.shape != x_T.shape[:1]:
        raise ValueError(
            "a sampler needs one typed PRNG key per image, as from "
            f"jax.random.split(jax.random.key(0), N): expected keys of shape "
            f"{x_T.shape[:1]}, got {keys.shape}"
        )
