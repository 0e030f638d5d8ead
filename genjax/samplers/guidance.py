"""Guidance: turns models and classifiers into noise predictors that prefer a condition.

Each function returns a callable for the samplers of `genjax.samplers.diffusion`. The
`guidance_scale` s aims at p(x_t) p(cond | x_t)^s; 1 is the model's own conditional. It
is a number, or float [N] with one for each image.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from genjax import processes
from genjax.processes import Table, gather, namespace


def classifier_free(
    eps_fn: Callable, cond: Any, null_cond: Any, guidance_scale: float | Array
) -> Callable:
    """Guidance by the model's own unconditional half: eps_u + scale (eps_c - eps_u).

    Both halves are one model call on 2N images. With a scale of exactly the Python
    number 1 only the conditional half is run.

    Args:
        eps_fn: (x_t float [N, ...], t int [N], cond) -> eps [N, ...], or a pair
            (eps, v), whose v is taken from the conditional half.
        cond: Array or tree of arrays, each [N, ...].
        null_cond: What the model was trained to take for "no condition"; the same tree
            and shapes as `cond`.
        guidance_scale: 1 is no guidance, 0 no condition. Ho & Salimans count from the
            conditional model: their w is scale - 1.

    Returns:
        (x_t, t) -> eps or (eps, v), for the N images that `cond` describes.

    Raises:
        ValueError: If `cond` and `null_cond` differ in tree or shapes.

    Reference: Ho & Salimans, arXiv:2207.12598, Eq. 6.
    """
    if _shapes(cond) != _shapes(null_cond):
        raise ValueError(
            "null_cond must have the tree and shapes of cond: expected "
            f"{_shapes(cond)}, got {_shapes(null_cond)}"
        )
    if isinstance(guidance_scale, (int, float)) and guidance_scale == 1:
        return lambda x_t, t: eps_fn(x_t, t, cond)

    def guided_fn(x_t: Array, t: Array):
        both = jax.tree.map(lambda *pair: jnp.concatenate(pair), cond, null_cond)
        x_twice, t_twice = jnp.concatenate([x_t, x_t]), jnp.concatenate([t, t])
        eps, v = processes.split_output(eps_fn(x_twice, t_twice, both), x_twice)
        eps_c, eps_u = jnp.split(eps, 2)
        eps = eps_u + _per_image(guidance_scale, x_t) * (eps_c - eps_u)
        return eps if v is None else (eps, v[: x_t.shape[0]])

    return guided_fn


def classifier_grad(
    logits_fn: Callable, label: Array, guidance_scale: float | Array = 1.0
) -> Callable:
    """Scaled gradient of a noisy classifier, scale * grad log p(label | x_t) at x_t.

    For `samplers.diffusion.ancestral(..., grad_fn=...)`, which is then Algorithm 1, or
    for `classifier_eps`, Algorithm 2. The paper derives Algorithm 1 from the gradient
    at the mean of x_{t-1}, but its algorithm and code take it at x_t, as here.

    Args:
        logits_fn: Classifier trained on noisy images, (x_t float [N, ...], t int [N])
            -> logits [N, K]; each image's logits depend on that image alone.
        label: Class that each image should have, int [N].
        guidance_scale: The paper's s.

    Returns:
        (x_t, t) -> float [N, ...].

    Reference: Dhariwal & Nichol, arXiv:2105.05233, Sec. 4.
    """

    def log_prob(x_t: Array, t: Array) -> Array:
        log_p = jax.nn.log_softmax(logits_fn(x_t, t))
        return jnp.sum(jnp.take_along_axis(log_p, label[:, None], axis=1))

    return lambda x_t, t: _per_image(guidance_scale, x_t) * jax.grad(log_prob)(x_t, t)


def classifier_eps(
    eps_fn: Callable, grad_fn: Callable, *, alphas_cumprod: Table
) -> Callable:
    """Classifier guidance as a change of eps: eps - sqrt(1 - a) grad_fn(x_t, t).

    It adds the gradient to the score, so any sampler may follow it; with
    `samplers.diffusion.ddim` it is Algorithm 2.

    Args:
        eps_fn: (x_t float [N, ...], t int [N]) -> eps [N, ...], or a pair (eps, v),
            whose v is passed through.
        grad_fn: Gradient, scale included, as from `classifier_grad`.
        alphas_cumprod: Power kept at the steps that `t` counts, float [T].

    Returns:
        (x_t, t) -> eps or (eps, v).

    Reference: Dhariwal & Nichol, arXiv:2105.05233, Algorithm 2 and Eq. 14.
    """
    sigma = namespace(alphas_cumprod).sqrt(1 - alphas_cumprod)

    def guided_fn(x_t: Array, t: Array):
        eps, v = processes.split_output(eps_fn(x_t, t), x_t)
        eps = eps - gather(sigma, t, x_t) * grad_fn(x_t, t)
        return eps if v is None else (eps, v)

    return guided_fn


def _per_image(scale: float | Array, x: Array) -> float | Array:
    """A number as it is; [N] as [N, 1, ...], to multiply x [N, ...]."""
    if jnp.shape(scale) not in ((), x.shape[:1]):
        raise ValueError(
            f"guidance_scale must be a number or one an image, {x.shape[:1]}, "
            f"got shape {jnp.shape(scale)}"
        )
    return jnp.reshape(scale, (-1,) + (1,) * (x.ndim - 1)) if jnp.ndim(scale) else scale


def _shapes(cond: Any) -> Any:
    return jax.tree.map(jnp.shape, cond)
