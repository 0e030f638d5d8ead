"""A classifier of noisy images, for classifier guidance."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from genjax.networks.attention import AttentionPool
from genjax.networks.layers import GroupNorm
from genjax.networks.unet import Trunk


class NoisyClassifier(Trunk, kw_only=True):
    """The way down of a U-Net, then attention pooling to one vector of logits.

    Attributes:
        num_classes: Classes to tell apart, K.
        features, ...: See `Trunk`.

    Reference: Dhariwal & Nichol, arXiv:2105.05233, Sec. 4 and App. I.
    """

    num_classes: int

    @nn.compact
    def __call__(self, x: Array, t: Array, *, train: bool) -> Array:
        """Maps noisy images x [B, H, W, C] at times t [B] to float32 logits [B, K]."""
        emb = self.embed(t)
        maps = self.down(x.astype(self.dtype), emb, train)
        h = self.middle(maps[-1], emb, train)
        h = GroupNorm(activation=nn.silu, dtype=self.dtype, name="norm_out")(h)
        pool = AttentionPool(
            self.num_classes,
            self.num_heads,
            self.head_features,
            self.dtype,
            name="pool",
        )
        return pool(h).astype(jnp.float32)
