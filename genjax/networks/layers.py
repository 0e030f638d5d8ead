"""Layers that several architectures share."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from genjax.networks import convolution
from genjax.networks.convolution import upsample_nearest

Dtype = Any
zeros = nn.initializers.zeros
STATISTICS = "group_norm_statistics"  # What its backward pass does not compute again.
KEEP_STATISTICS = jax.checkpoint_policies.save_only_these_names(STATISTICS)
ACTIVATIONS = {
    "relu": nn.relu,
    "leaky_relu": functools.partial(nn.leaky_relu, negative_slope=0.2),
    "silu": nn.silu,
    "softplus": nn.softplus,
    "tanh": nn.tanh,
}


def activation(name: str) -> Callable[[Array], Array]:
    """The elementwise function of that name.

    Raises:
        ValueError: If there is none, with those that there are.
    """
    if name not in ACTIVATIONS:
        raise ValueError(
            f"activation must be one of {sorted(ACTIVATIONS)}, got {name!r}"
        )
    return ACTIVATIONS[name]


def num_halvings(height: int, width: int) -> int:
    """How often an image can be halved with even sides that stay at least 4.

    Raises:
        ValueError: If not even once.
    """
    count = 0
    while all(side % 2 == 0 and side >= 8 for side in (height, width)):
        height, width, count = height // 2, width // 2, count + 1
    if not count:
        raise ValueError(
            "the network halves images and needs even sides of at least 8, got "
            f"{height}x{width}"
        )
    return count


def num_groups(features: int) -> int:
    """Groups for a group norm: at most 32, and at least four channels in each.

    A group of one channel would subtract that channel's mean, and with it all that a
    time embedding had added before the norm. 128 channels and more get 32 groups, as
    in the papers; where the bound does not divide `features`, the next divisor below.
    """
    bound = max(1, min(32, features // 4))
    return next(n for n in range(bound, 0, -1) if features % n == 0)


def sinusoidal_embedding(t: Array, features: int, max_period: float = 10_000) -> Array:
    """Sines and cosines of t at geometric frequencies: [B] -> float32 [B, features].

    The frequencies run from 1 down to 1 / max_period, both included, as in DDPM's
    networks; the Transformer's stop one step before. Sines come first, then cosines.
    t counts steps (0..T-1): a time in [0, 1] has to be scaled up by the caller.

    References:
        Vaswani et al., Attention Is All You Need, arXiv:1706.03762, Sec. 3.5.
        Ho et al., arXiv:2006.11239, App. B.
    """
    if features % 2 or features < 4:
        raise ValueError(f"features must be even and at least 4, got {features}")
    half = features // 2
    frequencies = np.exp(-np.log(max_period) * np.arange(half) / (half - 1))
    angles = t.astype(jnp.float32)[:, None] * frequencies.astype(np.float32)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def fourier_features(t: Array, features: int, scale: float = 16.0) -> Array:
    """Sines and cosines of t at random fixed frequencies: [B] -> float32 [B, features].

    The frequencies are normal with standard deviation `scale` in cycles per unit of t.
    They are a constant of the architecture (one fixed seed), not a parameter.

    References:
        Tancik et al., Fourier Features, arXiv:2006.10739, Eq. 4.
        Song et al., Score-Based Generative Modeling through SDEs, arXiv:2011.13456.
    """
    if features % 2:
        raise ValueError(f"features must be even, got {features}")
    # RandomState's stream is frozen for good, so that a checkpoint keeps its meaning.
    frequencies = scale * np.random.RandomState(0).standard_normal(features // 2)
    angles = t.astype(jnp.float32)[:, None] * (2 * np.pi * frequencies).astype(
        np.float32
    )
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class Conv(nn.Module):
    """2D convolution, computed in the way that is fastest on the platform.

    A stand-in for `nn.Conv` with the same parameters. 1 x 1 kernels become matrix
    products, whose gradients are matrix products too; on CPUs, 3 x 3 kernels use
    Winograd's filtering where there are enough channels to pay for it. See
    `networks.convolution`.

    Attributes:
        upsample: Repeat each pixel 2 x 2 first (on CPUs without doing so).
        features, ...: As in `nn.Conv`.
    """

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: str | Sequence[tuple[int, int]] = "SAME"
    use_bias: bool = True
    upsample: bool = False
    kernel_init: Callable = nn.initializers.lecun_normal()
    bias_init: Callable = zeros
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Array, shift: Array | None = None) -> Array:
        """Maps x [B, H, W, C] to [B, H', W', features].

        `shift` [B, features] is added to the bias of each example, where given. So the
        bias has its gradient from that of the shift, without a sum over pixels.
        """
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        if shift is not None:
            bias = shift if bias is None else bias + shift
            bias = bias[:, None, None]
        y = self.convolve(x, kernel)
        return y if bias is None else y + bias

    @nn.nowrap
    def convolve(self, x: Array, kernel: Array) -> Array:
        """Convolves x [B, H, W, C] with kernel [h, w, C, features]."""
        same = self.padding == "SAME" and self.strides == (1, 1)
        # With fewer channels or pixels little time is won, and much lost in compiling;
        # with few tiles most of it goes into the kernel's 36 matrices.
        channels, pixels = min(kernel.shape[2:]), x.shape[1] * x.shape[2]
        least = 32 if self.upsample else 64
        enough = channels >= 128 or (pixels >= 256 and channels >= least)
        enough = enough and (self.upsample or convolution.num_tiles(x) >= 32)
        if same and self.kernel_size == (3, 3) and x.dtype == jnp.float32 and enough:
            fast = convolution.upsample_conv if self.upsample else convolution.conv
            return fast(x, kernel)
        if self.upsample:
            x = convolution.upsample_nearest(x)
        if same and self.kernel_size == (1, 1):
            return convolution.pointwise(x, kernel[0, 0])
        pads = jax.lax.padtype_to_pads(
            x.shape[1:3], self.kernel_size, self.strides, self.padding
        )
        return convolution.direct_conv(self.strides, tuple(pads))(x, kernel)


def _dot_general(x: Array, kernel: Array, dimensions: Any, **options: Any) -> Array:
    return convolution.pointwise(x, kernel)


# For [B, L, C]: over both axes, as `nn.Dense` leaves it, the kernel's gradient would
# need a transposed copy of the output's on CPUs.
Dense = functools.partial(nn.Dense, dot_general=_dot_general)


class ConvTranspose(nn.Module):
    """Transposed (fractionally strided) convolution: the transpose of a strided `Conv`.

    The output is `strides` times as large as the input. Its gradients stay fast on
    CPUs inside a loop, as those of `networks.convolution.direct_conv`.

    Attributes:
        features: Channels out.
        kernel_size: Of the strided convolution that this transposes.
        strides: Factors of height and width.
    """

    features: int
    kernel_size: tuple[int, int] = (4, 4)
    strides: tuple[int, int] = (2, 2)
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.lecun_normal(in_axis=-1, out_axis=-2)
    bias_init: Callable = zeros
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps x [B, H, W, C] to [B, strides * H, strides * W, features]."""
        shape = (*self.kernel_size, self.features, x.shape[-1])
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        b, h, w, _ = x.shape
        sides = (h * self.strides[0], w * self.strides[1])
        pads = jax.lax.padtype_to_pads(sides, self.kernel_size, self.strides, "SAME")
        conv = convolution.direct_conv(self.strides, tuple(pads))
        large = jax.ShapeDtypeStruct((b, *sides, self.features), x.dtype)
        (y,) = jax.linear_transpose(lambda image: conv(image, kernel), large)(x)
        return y if bias is None else y + bias


def group_norm(
    x: Array,
    scale: Array,
    bias: Array,
    groups: int,
    epsilon: float = 1e-6,
    activation: Callable = lambda y: y,
    dtype: Dtype | None = None,
) -> Array:
    """Normalises groups of channels, in float32: [B, ..., C] to the same shape.

    Of all that lies between x and the result only the groups' means and variances are
    kept: reading a map once more is cheaper than keeping the three or four in between.

    Args:
        x: Features.
        scale: [C], or [B, C] for one per example.
        bias: Like `scale`.
        groups: Number of groups; divides C.
        epsilon: Added to the variance.
        activation: Elementwise, applied to the result.
        dtype: Of the output; that of x by default.

    Reference:
        Wu & He, Group Normalization, arXiv:1803.08494, Eq. 7.
    """
    b, c = x.shape[0], x.shape[-1]

    def group_mean(h):
        # Pixels first: on CPUs, XLA sums whole rows ten times as fast as parts of rows.
        mean = h.mean(axis=1).reshape(b, groups, -1).mean(axis=-1)
        return jax.lax.platform_dependent(mean, cpu=multiply, default=repeat)[:, None]

    def repeat(mean):
        return jnp.repeat(mean, c // groups, axis=1)

    def multiply(mean):
        # A product stays apart from what follows. With copies inside, XLA's CPU backend
        # looks each pixel's group up by itself, and takes twice as long.
        return mean @ np.repeat(np.eye(groups, dtype=np.float32), c // groups, axis=1)

    def statistics(x):
        h = x.astype(jnp.float32).reshape(b, -1, c)
        # By the first pixel's mean. A shift loses no digits of the variance, one pass
        # finds both sums, and as a constant it keeps sums of zero out of the gradient.
        shift = jax.lax.stop_gradient(group_mean(h[:, :1]))
        mean = group_mean(h - shift)
        var = group_mean(jnp.square(h - shift)) - jnp.square(mean)
        inverse = jax.lax.rsqrt(jnp.maximum(var, 0) + epsilon)
        return [checkpoint_name(v, STATISTICS) for v in (shift + mean, inverse)]

    @functools.partial(jax.checkpoint, policy=KEEP_STATISTICS)
    def normalise(x, scale, bias):
        mean, inverse = statistics(x)
        # One factor and one term for each example: their gradients are sums over
        # pixels, which GPUs find faster than those over a whole batch.
        scale = inverse * scale.astype(jnp.float32).reshape(-1, 1, c)
        bias = bias.astype(jnp.float32).reshape(-1, 1, c) - mean * scale
        # Cast from x anew, so that gradients of the two uses meet in the dtype of x:
        # otherwise a GPU writes a map of float32 in between.
        h = x.astype(jnp.float32).reshape(b, -1, c)
        return activation(h * scale + bias).reshape(x.shape).astype(dtype or x.dtype)

    return normalise(x, scale, bias)


class GroupNorm(nn.Module):
    """Group normalisation with as many groups as `num_groups` says."""

    epsilon: float = 1e-6
    activation: Callable = lambda y: y
    dtype: Dtype | None = None

    @nn.compact
    def __call__(
        self, x: Array, scale: Array | None = None, shift: Array | None = None
    ) -> Array:
        """Maps x [B, ..., C] to activation(norm(x) * (1 + scale) + shift).

        `scale` and `shift` are [B, C] where given (adaptive group norm).
        """
        c = x.shape[-1]
        gamma = self.param("scale", nn.initializers.ones, (c,))
        beta = self.param("bias", zeros, (c,))
        if scale is not None:
            gamma, beta = gamma * (1 + scale), beta * (1 + scale) + shift
        groups = num_groups(c)
        return group_norm(
            x, gamma, beta, groups, self.epsilon, self.activation, self.dtype
        )


def downsample_mean(x: Array) -> Array:
    """Averages blocks of 2 x 2 pixels: [B, H, W, C] -> [B, H/2, W/2, C]."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


class Downsample(nn.Module):
    """Halves height and width by a 3 x 3 convolution with stride 2."""

    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps x [B, H, W, C] to [B, H/2, W/2, C]."""
        return Conv(x.shape[-1], strides=(2, 2), dtype=self.dtype, name="conv")(x)


class Upsample(nn.Module):
    """Doubles height and width: nearest neighbour, then a 3 x 3 convolution."""

    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps x [B, H, W, C] to [B, 2H, 2W, C]."""
        return Conv(x.shape[-1], upsample=True, dtype=self.dtype, name="conv")(x)


class ResBlock(nn.Module):
    """Residual block of DDPM and ADM, with an embedding between its convolutions.

    The embedding is added before the second norm (DDPM), or scales and shifts the
    norm's output (`scale_shift`, ADM's adaptive group norm). `resize` "down" or "up"
    halves or doubles both branches before the first convolution (BigGAN, ADM).

    References:
        Ho et al., arXiv:2006.11239, App. B.
        Dhariwal & Nichol, arXiv:2105.05233, Sec. 3.
    """

    features: int
    dropout: float = 0.0
    scale_shift: bool = False
    resize: str | None = None
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Array, emb: Array, *, train: bool) -> Array:
        """Maps x [B, H, W, C] and emb [B, D] to [B, H', W', features]."""
        up, down = self.resize == "up", self.resize == "down"
        norm = functools.partial(GroupNorm, activation=nn.silu, dtype=self.dtype)
        h = norm(name="norm_in")(x)
        h = downsample_mean(h) if down else h
        conv_in = Conv(self.features, upsample=up, dtype=self.dtype, name="conv_in")
        width = 2 * self.features if self.scale_shift else self.features
        emb = nn.Dense(width, dtype=self.dtype, name="emb")(nn.silu(emb))
        if self.scale_shift:
            h = norm(name="norm_out")(conv_in(h), *jnp.split(emb, 2, axis=-1))
        else:
            h = norm(name="norm_out")(conv_in(h, emb))
        h = nn.Dropout(self.dropout)(h, deterministic=not train)
        # Zero init: the residual branch vanishes at the start of training.
        h = Conv(self.features, kernel_init=zeros, dtype=self.dtype, name="conv_out")(h)
        x = downsample_mean(x) if down else upsample_nearest(x) if up else x
        if x.shape[-1] != self.features:
            x = Conv(self.features, (1, 1), dtype=self.dtype, name="skip")(x)
        return x + h
