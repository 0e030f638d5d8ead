"""The encoder and decoder of VQ-VAE, van den Oord et al., arXiv:1711.00937, Sec. 4.1.

Strided 4 x 4 convolutions, then residual blocks; the decoder mirrors them. Every hidden
layer is `features` wide (256 in the paper, with two levels and two blocks).
"""

from typing import Any

import flax.linen as nn
from jax import Array

from genjax.networks.layers import Conv, ConvTranspose


class ResidualBlock(nn.Module):
    """ReLU, 3 x 3 convolution, ReLU, 1 x 1 convolution, added to the input."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps x [B, H, W, C] to the same shape."""
        h = Conv(x.shape[-1], dtype=self.dtype, name="conv_in")(nn.relu(x))
        h = Conv(x.shape[-1], (1, 1), dtype=self.dtype, name="conv_out")(nn.relu(h))
        return x + h


class Encoder(nn.Module):
    """Images to vectors that have not been quantised yet.

    Attributes:
        latent_features: D, the width of the vectors, to which a 1 x 1 convolution maps.
        features: Width of the hidden layers.
        num_levels: Times that height and width are halved.
        num_res_blocks: Residual blocks after that.
    """

    latent_features: int
    features: int = 256
    num_levels: int = 2
    num_res_blocks: int = 2
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps x [B, H, W, C] to [B, H / 2^levels, W / 2^levels, D].

        Raises:
            ValueError: If 2^levels does not divide height and width.
        """
        factor = 2**self.num_levels
        if x.shape[1] % factor or x.shape[2] % factor:
            raise ValueError(f"sides must be multiples of {factor}, got {x.shape}")
        for i in range(self.num_levels):
            if i:
                x = nn.relu(x)
            down = Conv(
                self.features, (4, 4), (2, 2), dtype=self.dtype, name=f"down_{i}"
            )
            x = down(x)
        for i in range(self.num_res_blocks):
            x = ResidualBlock(dtype=self.dtype, name=f"block_{i}")(x)
        out = Conv(self.latent_features, (1, 1), dtype=self.dtype, name="conv_out")
        return out(nn.relu(x))


class Decoder(nn.Module):
    """Codes to images, with a 3 x 3 convolution first to widen them.

    Attributes:
        out_channels: Of the image.
        features, num_levels, num_res_blocks: As in `Encoder`.
    """

    out_channels: int
    features: int = 256
    num_levels: int = 2
    num_res_blocks: int = 2
    dtype: Any = None

    @nn.compact
    def __call__(self, z: Array) -> Array:
        """Maps z [B, h, w, D] to images [B, h 2^levels, w 2^levels, out_channels]."""
        x = Conv(self.features, dtype=self.dtype, name="conv_in")(z)
        for i in range(self.num_res_blocks):
            x = ResidualBlock(dtype=self.dtype, name=f"block_{i}")(x)
        for i in reversed(range(self.num_levels)):
            width = self.features if i else self.out_channels
            x = ConvTranspose(width, dtype=self.dtype, name=f"up_{i}")(nn.relu(x))
        return x
