"""The discriminator of VAE/GAN, which measures how alike two images are.

Larsen et al., Autoencoding beyond pixels using a learned similarity metric,
arXiv:1512.09300, Table 1.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from genjax.networks.dcgan import Norm
from genjax.networks.layers import Conv, num_halvings


class Discriminator(nn.Module):
    """5 x 5 convolutions, a dense layer and one logit, with batch norm after the first.

    Sides are halved as often as `layers.num_halvings` says, each time with twice the
    features: after the paper's Table 1, which has three halvings of 64 x 64.

    Attributes:
        features: Of the first convolution, which halves nothing.
        hidden: Width of the dense layer.
    """

    features: int = 32
    hidden: int = 512
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        """Maps images x [B, H, W, C] to (logits [B], features [B, h, w, D]), float32.

        The features are the last map, normalised but before its ReLU: with a variance
        of about one in each channel, whatever the weights.
        """
        h = Conv(self.features, (5, 5), dtype=self.dtype, name="conv_in")(x)
        for i in range(num_halvings(*x.shape[1:3])):
            conv = Conv(
                self.features << (i + 1),
                (5, 5),
                (2, 2),
                use_bias=False,
                dtype=self.dtype,
                name=f"conv_{i}",
            )
            h = conv(nn.relu(h))
            h = Norm("batch", self.dtype, name=f"norm_{i}")(h, train=train)
        features = h.astype(jnp.float32)
        h = nn.relu(h).reshape(len(h), -1)
        h = nn.Dense(self.hidden, use_bias=False, dtype=self.dtype, name="hidden")(h)
        h = Norm("batch", self.dtype, name="norm_hidden")(h, train=train)
        logits = nn.Dense(1, dtype=self.dtype, name="out")(nn.relu(h))
        return logits[:, 0].astype(jnp.float32), features
