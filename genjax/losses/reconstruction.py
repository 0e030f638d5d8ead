"""Negative log-likelihoods of decoders, one value per example, summed over pixels."""

import math

import jax
import jax.numpy as jnp
from jax import Array

from genjax import images
from genjax.losses.likelihood import discretized_logistic_log_prob
from genjax.losses.variational import gaussian_log_prob


def squared_error(mean: Array, x: Array) -> Array:
    """Squared error averaged over pixels: float [B, ...] twice -> [B].

    Raises:
        ValueError: If the shapes differ.
    """
    _check(x, mean)
    return jnp.square(mean - x).reshape(len(x), -1).mean(axis=1)


def bernoulli_nll(logits: Array, x: Array) -> Array:
    """-log p(x) of independent pixels that are 1 with probability sigmoid(logits).

    Args:
        logits: Float [B, ...].
        x: Pixels in {0, 1}, float, same shape. In between, the value is the
            cross-entropy to a pixel that is 1 with probability x: no likelihood.

    Returns:
        Nats, float [B].

    Raises:
        ValueError: If the shapes differ.

    Reference: Kingma & Welling, arXiv:1312.6114, App. C.1, Eq. 11.
    """
    _check(x, logits)
    return _sum(jax.nn.softplus(logits) - x * logits)


def gaussian_nll(mean: Array, log_var: Array, x: Array) -> Array:
    """-log p(x) of independent Gaussian values.

    Args:
        mean: Float [B, ...].
        log_var: Float, same shape.
        x: Float, same shape.

    Returns:
        Nats, float [B], of a density in units of x: below 0 where it is above 1.

    Raises:
        ValueError: If the shapes differ.

    Reference: Kingma & Welling, arXiv:1312.6114, App. C.2, Eq. 12.
    """
    _check(x, mean, log_var)
    return -_sum(gaussian_log_prob(x, mean, log_var))


def discretized_logistic_nll(mean: Array, log_scale: Array, x: Array) -> Array:
    """-log P(x) of pixels on 256 levels under logistic distributions cut into bins.

    Bins are 2/255 wide around the levels; those of -1 and 1 reach to infinity, so that
    the levels share out a mass of one.

    Args:
        mean: Float [B, ...], in units of x in [-1, 1].
        log_scale: Logarithm of the logistic's scale, float, same shape.
        x: uint8 levels, or their places k / 127.5 - 1 as float; same shape.

    Returns:
        Nats, float [B].

    Raises:
        ValueError: If the shapes differ.

    Reference: Kingma et al., arXiv:1606.04934, Sec. 5.2 and App. C.
    """
    _check(x, mean, log_scale)
    x = images.to_float(x) if x.dtype == jnp.uint8 else x
    return -_sum(discretized_logistic_log_prob(x, mean, log_scale))


def _sum(x: Array) -> Array:
    return x.reshape(len(x), math.prod(x.shape[1:])).sum(axis=1)


def _check(x: Array, *parameters: Array) -> None:
    for value in parameters:
        if value.shape != x.shape:
            raise ValueError(
                f"each parameter must have the shape of x, {x.shape}, got {value.shape}"
            )
