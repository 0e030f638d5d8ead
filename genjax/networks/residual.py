"""Residual maps x + g(x) that are bijections, because g is a contraction.

The layers' norms are held below 1 by power iterations, for convolutions those of the
convolution itself, with its zeros around images of the size at hand.

References:
    Behrmann et al., Invertible Residual Networks, arXiv:1811.00995.
    Chen et al., Residual Flows for Invertible Generative Modeling, arXiv:1906.02735.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from genjax.networks.layers import Conv, zeros
from genjax.networks.normalization import operator_norm

Weights = tuple[tuple[Array, Array, Array], ...]  # Of each layer: kernel, bias, beta.


def lipswish(x: Array, beta: Array) -> Array:
    """x sigmoid(b x) / 1.1 with b = softplus(beta), whose slope is at most 1.

    Reference: Chen et al., arXiv:1906.02735, Sec. 3.3.
    """
    return x * jax.nn.sigmoid(jax.nn.softplus(beta) * x) / 1.1


def linear(kernel: Array, x: Array) -> Array:
    """Vectors [B, C] by [C, D], or images [B, H, W, C] convolved by [h, w, C, D]."""
    if kernel.ndim == 2:
        return x @ kernel
    layer = Conv(kernel.shape[-1], kernel.shape[:2], parent=None)
    return layer.convolve(x, kernel)


def contract(weights: Weights, x: Array) -> Array:
    """g: layers of LipSwish, a linear map and a bias."""
    for kernel, bias, beta in weights:
        x = linear(kernel, lipswish(x, beta)) + bias
    return x


class Contraction(nn.Module):
    """The weights of `contract`, each divided so that its norm is at most `coeff`.

    Weights whose norm is below that stay as they are. The singular vectors are entries
    of "batch_stats", which training refines; elsewhere, and for averaged weights, they
    are where power iterations begin.

    Attributes:
        features: Widths of the hidden layers.
        kernel_sizes: Sides of the convolutions, one more than there are widths; none
            for dense layers.
        coeff: Below 1; the norm of g is at most this to the number of layers, times
            what power iterations underestimate.

    Reference: Behrmann et al., arXiv:1811.00995, Sec. 2.
    """

    features: Sequence[int]
    kernel_sizes: Sequence[int] = ()
    coeff: float = 0.98

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Weights:
        """Weights for maps of x [B, ..., C] to its own shape."""
        shape, weights = (1, *x.shape[1:]), []
        for i, width in enumerate((*self.features, x.shape[-1])):
            sides = (self.kernel_sizes[i],) * 2 if self.kernel_sizes else ()
            kernel_shape = (*sides, shape[-1], width)
            init = nn.initializers.lecun_normal()
            kernel = self.param(f"kernel_{i}", init, kernel_shape)
            bias = self.param(f"bias_{i}", zeros, (width,))
            beta = self.param(f"beta_{i}", nn.initializers.constant(0.5), ())
            sigma = self.norm(f"u_{i}", kernel, shape, train)
            weights.append((kernel / jnp.maximum(1, sigma / self.coeff), bias, beta))
            shape = (*shape[:-1], width)
        return tuple(weights)

    def norm(
        self, name: str, kernel: Array, shape: tuple[int, ...], train: bool
    ) -> Array:
        """Of the map by `kernel` of what has that shape."""

        def draw() -> Array:
            return jax.random.normal(self.make_rng("params"), shape)

        u = self.variable("batch_stats", name, draw)
        sigma, new = operator_norm(linear, kernel, u.value)
        if train or self.is_initializing():
            u.value = new
        return sigma


class Residual(nn.Module):
    """The bijection x + g(x).

    Its log-determinant is NaN where `apply` is given no key named "log_det", as where
    latents alone are wanted.

    Attributes:
        net: The weights of g.
        log_det_fn: (fn, params, x, key, train) -> nats [B], where fn(params, x) is g.
        tolerance: Of the inverse: an iteration's largest change, relative to 1 + the
            largest number in the example.
        max_iterations: Of the inverse, at which to stop in any case.

    Reference: Behrmann et al., arXiv:1811.00995, Alg. 1.
    """

    net: Contraction
    log_det_fn: Callable[..., Array]
    tolerance: float = 1e-6
    max_iterations: int = 500

    def forward(self, x: Array, *, train: bool = False) -> tuple[Array, Array]:
        """x [B, ...] -> (y of the same shape, log_det [B])."""
        weights = self.net(x, train=train)
        y = x + contract(weights, x)
        if not self.has_rng("log_det"):
            return y, jnp.full(len(x), jnp.nan)
        key = self.make_rng("log_det")
        return y, self.log_det_fn(contract, weights, x, key, train)

    def inverse(self, y: Array) -> Array:
        """y -> x."""
        weights = self.net(y, train=False)
        return fixed_point(
            lambda x: y - contract(weights, x), y, self.tolerance, self.max_iterations
        )


def fixed_point(
    fn: Callable[[Array], Array], x: Array, tolerance: float, max_iterations: int
) -> Array:
    """x [B, ...] with fn(x) = x, from a guess; each example stops on its own."""
    axes = tuple(range(1, x.ndim))

    def improve(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        i, x, moving = state
        new = jnp.where(moving, fn(x), x)
        change = jnp.abs(new - x).max(axes, keepdims=True)
        size = 1 + jnp.abs(x).max(axes, keepdims=True)
        return i + 1, new, change > tolerance * size

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        i, _, moving = state
        return (i < max_iterations) & moving.any()

    moving = jnp.ones((len(x), *(1,) * len(axes)), bool)
    return jax.lax.while_loop(unfinished, improve, (0, x, moving))[1]


class Flattened(nn.Module):
    """A bijection of vectors [B, D] as one of anything [B, ...] of D numbers."""

    inner: nn.Module

    def forward(self, x: Array, *, train: bool = False) -> tuple[Array, Array]:
        """x [B, ...] -> (y of the same shape, log_det [B])."""
        y, log_det = self.inner.forward(x.reshape(len(x), -1), train=train)
        return y.reshape(x.shape), log_det

    def inverse(self, y: Array) -> Array:
        """y -> x."""
        return self.inner.inverse(y.reshape(len(y), -1)).reshape(y.shape)
