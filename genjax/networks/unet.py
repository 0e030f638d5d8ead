"""The U-Net of diffusion models, from DDPM's to ADM's."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from genjax.networks import rematerialisation
from genjax.networks.attention import AttentionBlock
from genjax.networks.layers import (
    Conv,
    Downsample,
    GroupNorm,
    ResBlock,
    Upsample,
    fourier_features,
    sinusoidal_embedding,
    zeros,
)

Dtype = Any


def check_image_size(height: int, width: int, multipliers: Sequence[int]) -> None:
    """Checks that each level can halve the size of the one before.

    Raises:
        ValueError: If not; it names the nearest sizes that work.
    """
    unit = 2 ** (len(multipliers) - 1)
    if height % unit == 0 and width % unit == 0 and height and width:
        return
    below = f"{height // unit * unit}x{width // unit * unit}"
    above = f"{-(-height // unit) * unit}x{-(-width // unit) * unit}"
    nearest = above if min(height, width) < unit else f"{below} and {above}"
    raise ValueError(
        f"{len(multipliers)} levels (multipliers={tuple(multipliers)}) need height and "
        f"width divisible by {unit}, got {height}x{width}; nearest that work: {nearest}"
    )


class Trunk(nn.Module, kw_only=True):
    """What `UNet` and `NoisyClassifier` share: embedding, way down and middle.

    Attributes:
        features: Channels at the first level.
        multipliers: Channels of each level, as multiples of `features`; the size halves
            from one level to the next.
        num_res_blocks: Residual blocks per level (one more on the way up).
        attention_resolutions: A level attends where the shorter side of its feature
            map, in pixels, is listed here. The middle always attends.
        num_heads: Attention heads at every level, unless `head_features` is given.
        head_features: Width of one head; the number of heads follows from it.
        dropout: Rate in each residual block; training needs a "dropout" key then.
        scale_shift: Embeddings scale and shift the second norm of each block instead
            of being added before it.
        resblock_updown: Residual blocks change the size, instead of a convolution with
            stride two down, and one after nearest neighbour up.
        time_features: "sinusoidal" for steps 0..T-1, "fourier" for times of order 1.
        time_scale: What the times are divided by for "fourier": T for steps 0..T-1.
        fourier_scale: Standard deviation of the Fourier frequencies.
        dtype: What to compute in; parameters are float32.
        fused_attention: Attend by cuDNN's kernel, in bfloat16 on NVIDIA GPUs; see
            `attention.attention` for what it cannot do.
    """

    features: int = 128
    multipliers: Sequence[int] = (1, 2, 2, 2)
    num_res_blocks: int = 2
    attention_resolutions: Sequence[int] = (16,)
    num_heads: int = 1
    head_features: int | None = None
    dropout: float = 0.0
    scale_shift: bool = False
    resblock_updown: bool = False
    time_features: str = "sinusoidal"
    time_scale: float = 1.0
    fourier_scale: float = 16.0
    dtype: Dtype = jnp.float32
    fused_attention: bool = False

    # The methods below create submodules, so they run inside the one compact method of
    # a subclass; nowrap keeps the names flat.

    @nn.nowrap
    def embed(self, t: Array) -> Array:
        """Embeds t [B]: [B, 4 * features]."""
        if self.time_features == "sinusoidal":
            emb = sinusoidal_embedding(t, self.features)
        elif self.time_features == "fourier":
            time = t / self.time_scale
            emb = fourier_features(time, self.features, self.fourier_scale)
        else:
            raise ValueError(
                'time_features must be "sinusoidal" or "fourier", got '
                f"{self.time_features!r}"
            )
        width = 4 * self.features
        emb = nn.Dense(width, dtype=self.dtype, name="time_in")(emb)
        return nn.Dense(width, dtype=self.dtype, name="time_out")(nn.silu(emb))

    @nn.nowrap
    def res_block(
        self, features: int, x: Array, emb: Array, train: bool, name: str, **resize
    ) -> Array:
        """Applies a new residual block."""
        block = ResBlock(
            features,
            self.dropout,
            self.scale_shift,
            dtype=self.dtype,
            name=name,
            **resize,
        )
        return rematerialisation.apply(block, x, emb, train=train)

    @nn.nowrap
    def attention(self, x: Array, name: str) -> Array:
        """Applies a new attention block."""
        block = AttentionBlock(
            self.num_heads,
            self.head_features,
            self.dtype,
            self.fused_attention,
            name=name,
        )
        return rematerialisation.apply(block, x)

    @nn.nowrap
    def down(self, x: Array, emb: Array, train: bool) -> list[Array]:
        """Returns the feature maps on the way down; the last is the smallest."""
        if x.ndim != 4:
            raise ValueError(f"expected images [B, H, W, C], got shape {x.shape}")
        check_image_size(x.shape[1], x.shape[2], self.multipliers)
        maps = [Conv(self.features, dtype=self.dtype, name="conv_in")(x)]
        for level, multiplier in enumerate(self.multipliers):
            features = self.features * multiplier
            for i in range(self.num_res_blocks):
                h = self.res_block(
                    features, maps[-1], emb, train, f"down_{level}_res_{i}"
                )
                if min(h.shape[1:3]) in self.attention_resolutions:
                    h = self.attention(h, f"down_{level}_attention_{i}")
                maps.append(h)
            if level < len(self.multipliers) - 1:
                name = f"down_{level}_resize"
                if self.resblock_updown:
                    h = self.res_block(features, h, emb, train, name, resize="down")
                else:
                    h = Downsample(self.dtype, name=name)(h)
                maps.append(h)
        return maps

    @nn.nowrap
    def middle(self, h: Array, emb: Array, train: bool) -> Array:
        """Applies the blocks at the smallest size."""
        h = self.res_block(h.shape[-1], h, emb, train, "mid_res_0")
        h = self.attention(h, "mid_attention")
        return self.res_block(h.shape[-1], h, emb, train, "mid_res_1")


class UNet(Trunk, kw_only=True):
    """Convolutional encoder and decoder with a skip between each pair of equals.

    The defaults are DDPM's network for CIFAR-10 (with dropout=0.1: 35,746,307
    parameters at 3 channels). ADM's has scale_shift and resblock_updown set and
    head_features=64. The last convolution starts at zero, and so does the output.

    Attributes:
        out_channels: Channels of the output.
        num_classes: K for class-conditional networks. Label K means "no class", for
            classifier-free guidance.
        features, ...: See `Trunk`.

    References:
        Ho et al., Denoising Diffusion Probabilistic Models, arXiv:2006.11239, App. B.
        Dhariwal & Nichol, Diffusion Models Beat GANs on Image Synthesis,
        arXiv:2105.05233, Sec. 3.
    """

    out_channels: int
    num_classes: int | None = None

    @nn.compact
    def __call__(
        self, x: Array, t: Array, label: Array | None = None, *, train: bool
    ) -> Array:
        """Predicts an image-shaped quantity at time t.

        Args:
            x: Noisy images, [B, H, W, C]. H and W may differ.
            t: Times, int or float [B].
            label: Classes, int [B] in 0..num_classes, where the last means "none".
            train: Whether to drop out.

        Returns:
            float32 [B, H, W, out_channels].

        Raises:
            ValueError: If the size cannot be halved at each level, or if a label is
                missing or not wanted.
        """
        if (label is None) != (self.num_classes is None):
            found = "label=None" if label is None else f"a label of shape {label.shape}"
            raise ValueError(
                "a label is needed exactly where num_classes is set: got "
                f"num_classes={self.num_classes} and {found}"
            )
        emb = self.embed(t)
        if label is not None:
            table = nn.Embed(
                self.num_classes + 1, emb.shape[-1], dtype=self.dtype, name="label"
            )
            emb = emb + table(label)
        maps = self.down(x.astype(self.dtype), emb, train)
        h = self.middle(maps[-1], emb, train)
        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            features = self.features * multiplier
            for i in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, maps.pop()], axis=-1)
                h = self.res_block(features, h, emb, train, f"up_{level}_res_{i}")
                if min(h.shape[1:3]) in self.attention_resolutions:
                    h = self.attention(h, f"up_{level}_attention_{i}")
            if level:
                name = f"up_{level}_resize"
                if self.resblock_updown:
                    h = self.res_block(features, h, emb, train, name, resize="up")
                else:
                    h = Upsample(self.dtype, name=name)(h)
        h = GroupNorm(activation=nn.silu, dtype=self.dtype, name="norm_out")(h)
        h = Conv(
            self.out_channels, kernel_init=zeros, dtype=self.dtype, name="conv_out"
        )(h)
        return h.astype(jnp.float32)
