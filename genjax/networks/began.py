"""The generator and the autoencoding discriminator of BEGAN.

Berthelot et al., BEGAN: Boundary Equilibrium Generative Adversarial Networks,
arXiv:1703.10717, Sec. 3.5 and Fig. 1, without the skip connections, which are optional.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from genjax.networks.layers import Conv
from genjax.networks.resnet_gan import check_size


class Encoder(nn.Module):
    """Images to an embedding: 3 x 3 convolutions with ELU, and a dense layer.

    The width grows by `features` at each halving, which is a stride of 2.

    Attributes:
        out_features: Of the embedding.
        features: Width at full size.
        num_scales: Sizes that the image passes through, its own included.
    """

    out_features: int
    features: int
    num_scales: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps x [B, H, W, C] to [B, out_features]."""
        check_size(x.shape[1:], self.num_scales - 1)
        x = nn.elu(Conv(self.features, dtype=self.dtype, name="in")(x))
        for i in range(self.num_scales):
            width = self.features * (i + 1)
            if i:
                down = Conv(width, strides=(2, 2), dtype=self.dtype, name=f"down_{i}")
                x = nn.elu(down(x))
            for j in range(2):
                conv = Conv(width, dtype=self.dtype, name=f"conv_{i}_{j}")
                x = nn.elu(conv(x))
        out = nn.Dense(self.out_features, dtype=self.dtype, name="out")
        return out(x.reshape(len(x), -1))


class Decoder(nn.Module):
    """An embedding to images; pixels are doubled by repetition. It is the generator.

    Attributes:
        shape: Of one image, (H, W, C); H and W are multiples of 2^(num_scales - 1).
        features: Width, the same at every size.
        num_scales: Sizes that the image passes through, its own included.
    """

    shape: tuple[int, int, int]
    features: int
    num_scales: int
    dtype: Any = None

    @nn.compact
    def __call__(self, z: Array, *, train: bool) -> Array:
        """Maps z [B, D] to float32 [B, H, W, C], not held in any range."""
        check_size(self.shape, self.num_scales - 1)
        height, width, channels = self.shape
        scale = 2 ** (self.num_scales - 1)
        base = (height // scale, width // scale, self.features)
        size = base[0] * base[1] * base[2]
        x = nn.Dense(size, dtype=self.dtype, name="in")(z).reshape(-1, *base)
        for i in range(self.num_scales):
            for j in range(2):
                conv = Conv(
                    self.features,
                    upsample=i > 0 and j == 0,
                    dtype=self.dtype,
                    name=f"conv_{i}_{j}",
                )
                x = nn.elu(conv(x))
        return Conv(channels, dtype=self.dtype, name="out")(x).astype(jnp.float32)


class Autoencoder(nn.Module):
    """The discriminator: what it cannot reconstruct it takes for generated.

    Attributes:
        shape: Of one image, (H, W, C).
        hidden_features: Of the embedding.
        features: See `Encoder` and `Decoder`, as for the next.
        num_scales: Sizes that the image passes through.
    """

    shape: tuple[int, int, int]
    hidden_features: int
    features: int
    num_scales: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps x [B, H, W, C] to its reconstruction, float32 [B, H, W, C]."""
        widths = (self.features, self.num_scales, self.dtype)
        h = Encoder(self.hidden_features, *widths, name="encoder")(x)
        return Decoder(self.shape, *widths, name="decoder")(h, train=train)
