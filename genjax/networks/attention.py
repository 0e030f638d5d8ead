"""Self-attention over the pixels of a feature map."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from genjax.networks.layers import Dense, GroupNorm, zeros

Dtype = Any


def attention(query: Array, key: Array, value: Array, *, fused: bool = False) -> Array:
    """Scaled dot-product attention, softmax(q k^T / sqrt(D)) v, softmax in float32.

    Args:
        query: [B, L, N, D] for N heads of width D.
        key: [B, M, N, D].
        value: [B, M, N, D].
        fused: Use cuDNN's kernel where it can be (`suits_cudnn`): it keeps no [L, M]
            logits, and has a first derivative in reverse mode, but no other.

    Returns:
        [B, L, N, D].

    Reference:
        Vaswani et al., Attention Is All You Need, arXiv:1706.03762, Eq. 1.
    """
    if fused and suits_cudnn(query, value):
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    # Heads first: plain matrix products run faster than einsums over [B, L, N, D].
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    logits = (query / query.shape[-1] ** 0.5) @ key.swapaxes(-1, -2)
    logits = logits.astype(jnp.float32)
    # Divided by their sum only after the product, which has D columns and not M.
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True)
    mean = (weights.astype(value.dtype) @ value) / total
    return mean.astype(value.dtype).swapaxes(1, 2)


def suits_cudnn(query: Array, value: Array) -> bool:
    """Whether cuDNN's fused attention takes such arrays, on the GPU that JAX uses."""
    if jax.default_backend() != "gpu" or query.dtype not in (jnp.bfloat16, jnp.float16):
        return False
    device = jax.devices()[0]
    if "cuda" not in device.client.platform_version:
        return False
    capability, width = float(device.compute_capability), query.shape[-1]
    widest = 256 if capability >= 9 else 128
    return capability >= 8 and width == value.shape[-1] <= widest and width % 8 == 0


def split_heads(features: int, num_heads: int, head_features: int | None) -> int:
    """Returns the number of heads; `head_features`, where given, decides it.

    Raises:
        ValueError: If the heads do not divide the width.
    """
    heads = num_heads if head_features is None else features // head_features
    if (
        heads < 1
        or features % heads
        or features // heads != (head_features or features // heads)
    ):
        asked = (
            f"num_heads={num_heads}"
            if head_features is None
            else f"head_features={head_features}"
        )
        raise ValueError(f"{asked} must divide the {features} features of the map")
    return heads


class AttentionBlock(nn.Module):
    """Residual self-attention among all pixels, after a group norm.

    `fused` is that of `attention`.

    References:
        Ho et al., arXiv:2006.11239, App. B (one head).
        Dhariwal & Nichol, arXiv:2105.05233, Sec. 3 (heads of 64 features).
    """

    num_heads: int = 1
    head_features: int | None = None
    dtype: Dtype | None = None
    fused: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps x [B, H, W, C] to the same shape."""
        b, height, width, c = x.shape
        heads = split_heads(c, self.num_heads, self.head_features)
        h = GroupNorm(dtype=self.dtype, name="norm")(x).reshape(b, height * width, c)
        # One matrix for all three; its columns are [query | key | value].
        qkv = Dense(3 * c, dtype=self.dtype, name="qkv")(h)
        split = [x.reshape(b, -1, heads, c // heads) for x in jnp.split(qkv, 3, -1)]
        h = attention(*split, fused=self.fused).reshape(b, -1, c)
        h = Dense(c, kernel_init=zeros, dtype=self.dtype, name="out")(h)
        return x + h.reshape(x.shape)


class AttentionPool(nn.Module):
    """Pools a feature map by letting its mean attend to all its pixels.

    A learned position is added to the mean and to each pixel, so the map's size is
    fixed by the parameters.

    Reference: Radford et al., CLIP, arXiv:2103.00020, Sec. 2.4; ADM's classifier,
    Dhariwal & Nichol, arXiv:2105.05233, App. I.
    """

    features: int
    num_heads: int = 1
    head_features: int | None = None
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps x [B, H, W, C] to [B, features]."""
        b, c = x.shape[0], x.shape[-1]
        heads = split_heads(c, self.num_heads, self.head_features)
        tokens = x.reshape(b, -1, c)
        tokens = jnp.concatenate([tokens.mean(1, keepdims=True), tokens], axis=1)
        init = nn.initializers.normal(c**-0.5)
        position = self.param("position", init, tokens.shape[1:])
        tokens = tokens + position.astype(tokens.dtype)
        query = nn.Dense(c, dtype=self.dtype, name="query")(tokens[:, :1])
        kv = Dense(2 * c, dtype=self.dtype, name="key_value")(tokens)
        kv = kv.reshape(b, -1, 2, heads, c // heads)
        query = query.reshape(b, 1, heads, c // heads)
        pooled = attention(query, kv[:, :, 0], kv[:, :, 1]).reshape(b, c)
        return nn.Dense(self.features, dtype=self.dtype, name="out")(pooled)
