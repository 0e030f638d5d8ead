"""Bijections with the logarithm of their Jacobian determinant.

Each is a module with two methods, `forward(x) -> (y, log_det)` and `inverse(y) -> x`,
where log_det = log |det dy/dx|, nats [B]. Shapes stay as they are: a level that sees an
image as [H/2, W/2, 4C] puts it back together, so the latents have the image's shape.
Bijections compute in float32; the networks inside couplings may compute in less.

References:
    Dinh et al., NICE, arXiv:1410.8516.
    Dinh et al., Density estimation using Real NVP, arXiv:1605.08803.
    Kingma & Dhariwal, Glow, arXiv:1807.03039, whose steps are in `networks.glow`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from genjax.networks import rematerialisation
from genjax.networks.layers import zeros


def squeeze(x: Array) -> Array:
    """Squares of 2 x 2 pixels to channels: [B, H, W, C] -> [B, H/2, W/2, 4C].

    Channels stand pixel by pixel: upper left, upper right, lower left, lower right.

    Raises:
        ValueError: If a side is odd.
    """
    b, h, w, c = x.shape
    if h % 2 or w % 2:
        raise ValueError(f"squeezing needs even sides, got {h}x{w}")
    x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // 2, w // 2, 4 * c)


def unsqueeze(x: Array) -> Array:
    """The inverse of `squeeze`: [B, H, W, 4C] -> [B, 2H, 2W, C]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, 2 * h, 2 * w, c // 4)


def split(x: Array, mask: str) -> tuple[Array, Array]:
    """Two halves of each example.

    Args:
        x: Float [B, ..., C].
        mask: "channel": the first C - C // 2 channels, and the others. "alternate":
            the even channels, and the odd ones. "checkerboard", for images with even
            sides: the two colours of a board, each as [B, H/2, W/2, 2C].
    """
    if mask == "checkerboard":
        a, b, c, d = jnp.split(squeeze(x), 4, axis=-1)
        return jnp.concatenate([a, d], -1), jnp.concatenate([b, c], -1)
    if mask == "alternate":
        return x[..., ::2], x[..., 1::2]
    first = x.shape[-1] - x.shape[-1] // 2
    return x[..., :first], x[..., first:]


def merge(first: Array, second: Array, mask: str) -> Array:
    """The inverse of `split`."""
    if mask == "checkerboard":
        (a, d), (b, c) = jnp.split(first, 2, axis=-1), jnp.split(second, 2, axis=-1)
        return unsqueeze(jnp.concatenate([a, b, c, d], -1))
    if mask == "alternate":
        shape = (*first.shape[:-1], first.shape[-1] + second.shape[-1])
        x = jnp.zeros(shape, first.dtype)
        return x.at[..., ::2].set(first).at[..., 1::2].set(second)
    return jnp.concatenate([first, second], axis=-1)


def sum_dims(x: Array) -> Array:
    """Sums all but the first axis: [B, ...] -> [B]."""
    return x.reshape(len(x), -1).sum(axis=1)


AFFINE = ("tanh", "sigmoid")
MASKS = ("channel", "alternate", "checkerboard")


class Coupling(nn.Module):
    """Scales and shifts one half of the input by functions of the other half.

    A checkerboard's halves are squeezed to [H/2, W/2, 2C] for the network, a quarter of
    the work of the paper's masked images with the same pixels in each half.

    Attributes:
        net: A module (half, number of channels out) -> channels, of the same places.
        mask: How to halve; see `split`.
        flip: The second half conditions the first, rather than the other way round.
        scale: "tanh": exp(c tanh(h)) with learned c; "sigmoid": sigmoid(h + 2);
            "none": 1, so that volumes are kept.

    References:
        Dinh et al., arXiv:1410.8516, Sec. 3.2 ("none").
        Dinh et al., arXiv:1605.08803, Eqs. 7-9 ("tanh").
        Kingma & Dhariwal, arXiv:1807.03039, Table 1 ("sigmoid", as in their code).
    """

    net: nn.Module
    mask: str = "channel"
    flip: bool = False
    scale: str = "tanh"

    def forward(
        self, x: Array, context: Array | None = None, *, train: bool = False
    ) -> tuple[Array, Array]:
        """x [B, ..., C] -> (y of the same shape, log_det [B])."""
        given, moved = self.halves(x)
        log_scale, shift = self.scale_and_shift(given, moved, context)
        moved = moved * jnp.exp(log_scale) + shift
        return self.join(given, moved), sum_dims(log_scale)

    def inverse(self, y: Array, context: Array | None = None) -> Array:
        """y -> x."""
        given, moved = self.halves(y)
        log_scale, shift = self.scale_and_shift(given, moved, context)
        return self.join(given, (moved - shift) * jnp.exp(-log_scale))

    def halves(self, x: Array) -> tuple[Array, Array]:
        """The half that conditions, and the one that moves."""
        halves = split(x, self.mask)
        return halves[::-1] if self.flip else halves

    def join(self, given: Array, moved: Array) -> Array:
        """The inverse of `halves`."""
        halves = (moved, given) if self.flip else (given, moved)
        return merge(*halves, self.mask)

    @nn.compact
    def scale_and_shift(
        self, given: Array, moved: Array, context: Array | None
    ) -> tuple[Array, Array]:
        """Log-scale and shift for `moved`, from `given` and the context."""
        if context is not None:
            context = squeeze(context) if self.mask == "checkerboard" else context
            given = jnp.concatenate([given, context], axis=-1)
        channels = moved.shape[-1]
        if self.scale == "none":
            shift = self.net(given, channels).astype(jnp.float32)
            return jnp.zeros_like(shift), shift
        out = self.net(given, 2 * channels).astype(jnp.float32)
        raw, shift = jnp.split(out, 2, axis=-1)
        if self.scale == "sigmoid":
            return jax.nn.log_sigmoid(raw + 2), shift
        ones = nn.initializers.ones
        return self.param("log_scale", ones, (channels,)) * jnp.tanh(raw), shift


class ActNorm(nn.Module):
    """Scales and shifts each channel; its first batch leaves with mean 0, variance 1.

    Attributes:
        epsilon: Added to the standard deviation of the first batch.

    Reference: Kingma & Dhariwal, arXiv:1807.03039, Sec. 3.1.
    """

    epsilon: float = 1e-6

    def forward(self, x: Array, *, train: bool = False) -> tuple[Array, Array]:
        """x [B, ..., C] -> (y of the same shape, log_det [B])."""
        log_scale, bias = self.log_scale_and_bias(x)
        places = math.prod(x.shape[1:-1])
        log_det = jnp.broadcast_to(places * log_scale.sum(), x.shape[:1])
        return (x + bias) * jnp.exp(log_scale), log_det

    def inverse(self, y: Array) -> Array:
        """y -> x."""
        log_scale, bias = self.log_scale_and_bias(y)
        return y * jnp.exp(-log_scale) - bias

    @nn.compact
    def log_scale_and_bias(self, x: Array) -> tuple[Array, Array]:
        """Both [C]; where parameters are made, from the statistics of x."""
        flat = x.reshape(-1, x.shape[-1])
        bias = self.param("bias", lambda key: -flat.mean(axis=0))
        log_scale = self.param(
            "log_scale", lambda key: -jnp.log(flat.std(axis=0) + self.epsilon)
        )
        return log_scale, bias


class BatchNorm(nn.Module):
    """Normalises each channel by the batch's mean and variance, a bijection otherwise.

    With `train` the statistics are the batch's own, and so a function of it; without,
    and in the inverse, they are running averages.

    Attributes:
        momentum: What the running averages keep at each step.
        epsilon: Added to the variance.

    Reference: Dinh et al., arXiv:1605.08803, Sec. 3.7 and App. E.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    def forward(self, x: Array, *, train: bool = False) -> tuple[Array, Array]:
        """x [B, ..., C] -> (y of the same shape, log_det [B])."""
        mean, var = self.statistics(x, train)
        log_scale = -0.5 * jnp.log(var + self.epsilon)
        places = math.prod(x.shape[1:-1])
        log_det = jnp.broadcast_to(places * log_scale.sum(), x.shape[:1])
        return (x - mean) * jnp.exp(log_scale), log_det

    def inverse(self, y: Array) -> Array:
        """y -> x."""
        mean, var = self.statistics(y, False)
        return y * jnp.sqrt(var + self.epsilon) + mean

    @nn.compact
    def statistics(self, x: Array, train: bool) -> tuple[Array, Array]:
        """Mean and variance, both [C]; running averages start at those of x."""
        flat = x.reshape(-1, x.shape[-1])
        now = flat.mean(axis=0), flat.var(axis=0)
        mean = self.variable("batch_stats", "mean", lambda: now[0])
        var = self.variable("batch_stats", "var", lambda: now[1])
        if not train:
            return mean.value, var.value
        if not self.is_initializing():
            for average, value in zip((mean, var), now, strict=True):
                value = jax.lax.stop_gradient(value)
                average.value += (1 - self.momentum) * (value - average.value)
        return now


NORMS = {"actnorm": ActNorm, "batch": BatchNorm}


class Diagonal(nn.Module):
    """Scales each dimension of [B, D], starting at 1.

    Reference: Dinh et al., arXiv:1410.8516, Sec. 3.3.
    """

    def forward(self, x: Array, *, train: bool = False) -> tuple[Array, Array]:
        """x [B, D] -> (y of the same shape, log_det [B])."""
        log_scale = self.log_scale(x.shape[-1])
        return x * jnp.exp(log_scale), jnp.broadcast_to(log_scale.sum(), x.shape[:1])

    def inverse(self, y: Array) -> Array:
        """y -> x."""
        return y * jnp.exp(-self.log_scale(y.shape[-1]))

    @nn.compact
    def log_scale(self, dims: int) -> Array:
        """Logarithms of the scales, [D]."""
        return self.param("log_scale", zeros, (dims,))


class Chain(nn.Module):
    """Bijections one after the other.

    Attributes:
        parts: From the data to the latents.
    """

    parts: Sequence[nn.Module]

    def forward(self, x: Array, *, train: bool = False) -> tuple[Array, Array]:
        """x [B, ...] -> (y of the same shape, log_det [B])."""
        total = jnp.zeros(len(x))
        for part in self.parts:
            x, log_det = part.forward(x, train=train)
            total += log_det
        return x, total

    def inverse(self, y: Array) -> Array:
        """y -> x."""
        for part in reversed(self.parts):
            y = part.inverse(y)
        return y


class Repeated(nn.Module):
    """A bijection many times over, each time with parameters of its own.

    Compiling it takes the time of one.

    Attributes:
        part: The bijection.
        count: How many.
    """

    part: nn.Module
    count: int

    def forward(self, x: Array, *, train: bool = False) -> tuple[Array, Array]:
        """x [B, ...] -> (y of the same shape, log_det [B])."""

        def step(part: nn.Module, x: Array) -> tuple[Array, Array]:
            return part.forward(x, train=train)

        step = rematerialisation.block(step, "a step of the flow")
        y, log_dets = self.scan(step)(self.part, x)
        return y, log_dets.sum(axis=0)

    def inverse(self, y: Array) -> Array:
        """y -> x."""
        inverse = self.scan(lambda part, y: (part.inverse(y), None), reverse=True)
        return inverse(self.part, y)[0]

    def scan(self, step: Callable, **options: Any) -> Callable:
        """The steps one after the other, (part, x) -> (y, what each step adds)."""
        return nn.scan(
            step,
            variable_axes={"params": 0, "batch_stats": 0, "constants": 0},
            split_rngs={"params": True, "log_det": True},
            length=self.count,
            **options,
        )


class Squeezed(nn.Module):
    """A bijection of [B, H/2, W/2, 4C] as one of images [B, H, W, C]."""

    inner: nn.Module

    def forward(self, x: Array, *, train: bool = False) -> tuple[Array, Array]:
        """x [B, H, W, C] -> (y of the same shape, log_det [B])."""
        y, log_det = self.inner.forward(squeeze(x), train=train)
        return unsqueeze(y), log_det

    def inverse(self, y: Array) -> Array:
        """y -> x."""
        return unsqueeze(self.inner.inverse(squeeze(y)))


class FactorOut(nn.Module):
    """Lets the second half of the channels be, and transforms the first half further.

    Attributes:
        inner: The bijection of the first half.
        net: A module (half, channels out) -> channels; if there is one, the second half
            is not standard normal but N(mean, sigma^2), both functions of the first,
            and what comes out is its standardised noise.

    References:
        Dinh et al., arXiv:1605.08803, Sec. 3.6.
        Kingma & Dhariwal, arXiv:1807.03039: the learned prior is in the authors' code.
    """

    inner: nn.Module
    net: nn.Module | None = None

    def forward(self, x: Array, *, train: bool = False) -> tuple[Array, Array]:
        """x [B, H, W, C] -> (y of the same shape, log_det [B])."""
        first, second = split(x, "channel")
        mean, log_sigma = self.mean_and_log_sigma(first, second)
        second = (second - mean) * jnp.exp(-log_sigma)
        first, log_det = self.inner.forward(first, train=train)
        return merge(first, second, "channel"), log_det - sum_dims(log_sigma)

    def inverse(self, y: Array) -> Array:
        """y -> x."""
        first, second = split(y, "channel")
        first = self.inner.inverse(first)
        mean, log_sigma = self.mean_and_log_sigma(first, second)
        return merge(first, mean + second * jnp.exp(log_sigma), "channel")

    def mean_and_log_sigma(self, first: Array, second: Array) -> tuple[Array, Array]:
        """Those of p(second | first), before any further transformation of it."""
        if self.net is None:
            return jnp.zeros_like(second), jnp.zeros_like(second)
        out = self.net(first, 2 * second.shape[-1]).astype(jnp.float32)
        mean, log_sigma = jnp.split(out, 2, axis=-1)
        return mean, log_sigma
