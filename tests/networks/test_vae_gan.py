"""The discriminator of VAE/GAN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.networks.vae_gan import Discriminator


@pytest.mark.parametrize(
    "size, features", [((8, 8), (4, 4, 8)), ((28, 32), (7, 8, 16))]
)
def test_shapes(size, features):
    net, x = Discriminator(features=4, hidden=8), jnp.zeros((3, *size, 1))
    (logits, maps), _ = jax.eval_shape(
        lambda key: net.init_with_output(key, x, train=False), jax.random.key(0)
    )
    assert logits.shape == (3,) and maps.shape == (3, *features)
    assert logits.dtype == maps.dtype == jnp.float32


def test_the_features_have_unit_variance_whatever_the_weights():
    """Batch norm's promise, for channels whose scale is one: mean 0, variance 1."""
    net = Discriminator(features=4, hidden=8)
    x = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))
    made = net.init(jax.random.key(1), x, train=False)
    params = {**made["params"], "conv_0": {"kernel": 9 * jnp.ones((5, 5, 4, 8))}}
    params["norm_0"] = jax.tree.map(jnp.copy, params["norm_0"])
    params["norm_0"]["batch"]["scale"] = jnp.ones(8)
    (_, maps), _ = net.apply(
        {**made, "params": params}, x, train=True, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(maps.mean((0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(maps.var((0, 1, 2)), 1, atol=1e-3)


def test_the_logits_read_the_features():
    """Features below zero everywhere leave what a bias of -1 there leaves: nothing."""
    net = Discriminator(features=4, hidden=8)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    made = net.init(jax.random.key(1), x, train=False)
    params = jax.tree.map(jnp.copy, made["params"])
    logits, _ = net.apply(made, x, train=False)
    assert logits[0] != logits[1]
    params["norm_0"]["batch"]["bias"] = jnp.full(8, -1e3)
    logits, maps = net.apply({**made, "params": params}, x, train=False)
    assert maps.max() < 0
    assert logits[0] == logits[1]
