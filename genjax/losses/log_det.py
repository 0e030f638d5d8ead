"""log |det(I + J)| of a residual map x + g(x), exactly or by an unbiased estimate.

J is the Jacobian of g, which acts on a batch: (x [B, ...]) -> [B, ...], where example i
of what comes out depends on example i of what goes in alone.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def exact_log_det(fn: Callable[[Array], Array], x: Array) -> Array:
    """From the whole Jacobian of g, by a product with it for each dimension.

    Args:
        fn: g.
        x: Float [B, ...] of D numbers each.

    Returns:
        Nats, float [B].
    """
    size = math.prod(x.shape[1:])

    def column(direction: Array) -> Array:
        tangent = jnp.broadcast_to(direction.reshape(x.shape[1:]), x.shape)
        return jax.jvp(fn, (x,), (tangent,))[1].reshape(len(x), size)

    eye = jnp.eye(size, dtype=x.dtype)
    return jnp.linalg.slogdet(eye + jax.vmap(column, out_axes=2)(eye))[1]


def roulette_log_det(
    fn: Callable[[Any, Array], Array],
    params: Any,
    x: Array,
    key: Array,
    *,
    num_exact: int = 2,
    p: float = 0.5,
) -> Array:
    """An unbiased estimate from the power series, with an unbiased gradient.

    log det(I + J) = sum_k (-1)^(k+1) / k tr(J^k) is cut after n terms at random (a
    Russian roulette) and the term k divided by P(n >= k). Traces are v^T J^k v with one
    v of random signs for all k, of less variance than the paper's normal v. The
    gradient is not that of the terms: it is sum_k (-1)^k / P(n > k) v^T J^k (dJ) v, in
    which J^k is a constant, so that memory does not grow with n.

    n is `num_exact` plus a geometric number, 1, 2, ... without a bound, and one for the
    whole batch; so `num_exact` + 1 terms are always there, as in the authors' code. The
    variance is finite where the spectrum of J lies within sqrt(1 - p).

    Args:
        fn: (params, x) -> g(x), with a Lipschitz constant below 1 in x.
        params: All that the gradient is wanted of beside x; `fn` closes over constants.
        x: Float [B, ...].
        key: PRNG key of n and v.
        num_exact: Terms that are there before the roulette begins.
        p: Probability that it ends with the next term; small costs time and saves
            variance.

    Returns:
        Nats, float [B].

    Reference:
        Chen et al., Residual Flows, arXiv:1906.02735, Eqs. 6 and 8.
    """
    n_key, v_key = jax.random.split(key)
    num_terms = num_exact + jax.random.geometric(n_key, p)
    v = jax.random.rademacher(v_key, x.shape, x.dtype)

    def chance(k: Array) -> Array:
        """P(n >= k)."""
        return (1 - p) ** jnp.maximum(k - num_exact - 1, 0)

    value, weights = _series(fn, params, x, v, num_terms, chance)
    # Its value is of no interest, its gradient is Eq. 8.
    slope = _dot(weights, jax.jvp(lambda x: fn(params, x), (x,), (v,))[1])
    return value + slope - jax.lax.stop_gradient(slope)


def _series(
    fn: Callable[[Any, Array], Array],
    params: Any,
    x: Array,
    v: Array,
    num_terms: Array,
    chance: Callable[[Array], Array],
) -> tuple[Array, Array]:
    """The sum of Eq. 6, [B], and sum_k (-1)^k / P(n > k) v^T J^k, as constants."""
    params, x = jax.lax.stop_gradient((params, x))
    _, times_jacobian = jax.vjp(lambda x: fn(params, x), x)

    def add(state: tuple[Array, ...]) -> tuple[Array, ...]:
        k, row, value, weights = state  # row = v^T J^k.
        factor = jnp.where(k % 2, -1.0, 1.0) / chance(k + 1)
        weights += factor * row
        (row,) = times_jacobian(row)
        return k + 1, row, value + factor / (k + 1) * _dot(row, v), weights

    start = jnp.zeros((), num_terms.dtype), v, jnp.zeros(len(x)), jnp.zeros_like(x)
    *_, value, weights = jax.lax.while_loop(lambda s: s[0] < num_terms, add, start)
    return value, weights


def _dot(a: Array, b: Array) -> Array:
    return jnp.sum((a * b).reshape(len(a), -1), axis=1)
