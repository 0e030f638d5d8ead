"""Attention against loops and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.networks.attention import (
    AttentionBlock,
    AttentionPool,
    attention,
    split_heads,
    suits_cudnn,
)


def qkv(length=5, memory=7, heads=2, width=3):
    random = np.random.default_rng(0)
    shapes = [(2, length, heads, width), (2, memory, heads, width)]
    return [random.standard_normal(s).astype(np.float32) for s in (*shapes, shapes[1])]


def test_attention_is_a_weighted_mean_in_loops():
    query, key, value = qkv()
    out = np.zeros(query.shape)
    for b in range(2):
        for head in range(2):
            for i in range(5):
                q = np.float64(query[b, i, head])
                weights = [np.exp(q @ key[b, j, head] / np.sqrt(3)) for j in range(7)]
                for j in range(7):
                    out[b, i, head] += weights[j] / sum(weights) * value[b, j, head]
    np.testing.assert_allclose(attention(query, key, value), out, atol=1e-6)


def test_attention_equals_torchs():
    torch = pytest.importorskip("torch", reason="compares to torch's attention")
    arrays = qkv(heads=3, width=4)
    heads_first = [torch.tensor(a).transpose(1, 2) for a in arrays]
    theirs = torch.nn.functional.scaled_dot_product_attention(*heads_first)
    ours = attention(*arrays)
    np.testing.assert_allclose(ours, theirs.transpose(1, 2), atol=1e-6)


def test_large_logits_do_not_overflow():
    """One key wins by far, so the output is its value."""
    query, key, value = (np.eye(4, dtype=np.float32)[None, :, None] for _ in range(3))
    out = attention(1e4 * query, 1e4 * key, value)
    np.testing.assert_allclose(out, value, atol=1e-6)


@pytest.mark.parametrize(
    ("num_heads", "head_features", "heads"), [(1, None, 1), (4, None, 4), (1, 16, 4)]
)
def test_heads(num_heads, head_features, heads):
    assert split_heads(64, num_heads, head_features) == heads


@pytest.mark.parametrize(("num_heads", "head_features"), [(3, None), (1, 48), (1, 128)])
def test_heads_that_do_not_divide_are_refused(num_heads, head_features):
    with pytest.raises(ValueError, match="must divide the 64 features"):
        split_heads(64, num_heads, head_features)


def test_a_new_block_is_the_identity_and_later_it_commutes_with_permutations():
    """There are no positions, so shuffling the pixels shuffles the output."""
    x = jax.random.normal(jax.random.key(0), (2, 4, 3, 16))
    block = AttentionBlock(head_features=8)
    y, params = block.init_with_output(jax.random.key(1), x)
    np.testing.assert_array_equal(x, y)
    params = jax.tree.map(
        lambda p: p + 0.3 * jax.random.normal(jax.random.key(2), p.shape), params
    )
    order = np.random.default_rng(0).permutation(12)

    def shuffle(x):
        return x.reshape(2, 12, 16)[:, order].reshape(x.shape)

    y = block.apply(params, x)
    assert jnp.abs(y - x).max() > 0.1
    np.testing.assert_allclose(block.apply(params, shuffle(x)), shuffle(y), atol=1e-5)


def test_pool_of_equal_pixels_without_positions_is_two_linear_maps():
    """All values agree, so the weights do not matter: out(value(x))."""
    x = jnp.broadcast_to(
        jax.random.normal(jax.random.key(0), (2, 1, 1, 8)), (2, 3, 2, 8)
    )
    pool = AttentionPool(5, num_heads=2)
    params = pool.init(jax.random.key(1), x)["params"]
    assert params["position"].shape == (7, 8)
    params["position"] = jnp.zeros((7, 8))
    kv = x[:, 0, 0] @ params["key_value"]["kernel"] + params["key_value"]["bias"]
    expected = kv[:, 8:] @ params["out"]["kernel"] + params["out"]["bias"]
    np.testing.assert_allclose(pool.apply({"params": params}, x), expected, atol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN needs a GPU")
def test_cudnns_attention_equals_ours():
    """In bfloat16 the two differ by its rounding; so do their gradients."""
    qkv = jax.random.normal(jax.random.key(0), (3, 2, 64, 2, 64), jnp.bfloat16)
    assert suits_cudnn(qkv[0], qkv[2])

    def loss(qkv, fused):
        return jnp.sum(attention(*qkv, fused=fused).astype(jnp.float32) ** 2)

    for fn in (lambda qkv, f: attention(*qkv, fused=f), jax.grad(loss)):
        ours, theirs = (fn(qkv, fused).astype(jnp.float32) for fused in (False, True))
        np.testing.assert_allclose(theirs, ours, atol=0.05 * np.abs(ours).max())


def test_fused_attention_is_ours_where_there_is_no_cudnn():
    qkv = jax.random.normal(jax.random.key(0), (3, 2, 5, 2, 8))
    assert not suits_cudnn(qkv[0], qkv[2])
    out = attention(*qkv, fused=True)
    np.testing.assert_array_equal(out, attention(*qkv))
