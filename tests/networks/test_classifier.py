"""The noisy classifier."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax.networks.classifier import NoisyClassifier
from genjax.networks.unet import UNet

SMALL = dict(features=8, multipliers=(1, 2), num_res_blocks=1, attention_resolutions=())


def test_logits_and_shared_names():
    """The way down has the U-Net's names and shapes, so that weights can be shared."""
    x, t = jnp.ones((2, 8, 12, 3)), jnp.arange(2)
    net = NoisyClassifier(num_classes=5, **SMALL)

    def shape(net):
        return jax.eval_shape(
            lambda key: net.init(key, x, t, train=False)["params"], jax.random.key(0)
        )

    params, unet = shape(net), shape(UNet(out_channels=3, **SMALL))
    trunk = [k for k in unet if k.startswith(("down", "mid", "time", "conv_in"))]
    assert len(trunk) == 9
    for name in trunk:
        assert jax.tree.map(lambda p: p.shape, params[name]) == jax.tree.map(
            lambda p: p.shape, unet[name]
        )
    logits, _ = jax.eval_shape(
        lambda key: net.init_with_output(key, x, t, train=False), jax.random.key(0)
    )
    assert logits.shape == (2, 5)
    assert logits.dtype == jnp.float32


def test_it_learns_to_tell_left_from_right():
    """One bright column is on either side; 60 steps suffice for a loss below 0.1."""
    label = jnp.arange(16) % 2
    column = jnp.where(label == 0, 1, 6)
    x = (jnp.arange(8) == column[:, None])[:, None, :, None] * jnp.ones((16, 8, 8, 1))
    x = x + 0.1 * jax.random.normal(jax.random.key(0), x.shape)
    t = jnp.zeros(16, jnp.int32)
    net = NoisyClassifier(num_classes=2, **SMALL)
    params = jax.jit(lambda key: net.init(key, x, t, train=False))(jax.random.key(1))
    tx = optax.adam(3e-3)

    @jax.jit
    def step(params, opt_state):
        def loss_fn(params):
            logits = net.apply(params, x, t, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = tx.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, loss

    opt_state = tx.init(params)
    for _ in range(60):
        params, opt_state, loss = step(params, opt_state)
    assert loss < 0.1


def test_gradient_for_guidance_reaches_the_image():
    """log p(y | x) differentiates by x, and does so by differences, too."""
    x, t = jnp.zeros((1, 4, 4, 1)) + 0.3, jnp.array([3])
    x = x + jax.random.normal(jax.random.key(2), x.shape)
    net = NoisyClassifier(num_classes=3, **SMALL)
    params = jax.jit(lambda key: net.init(key, x, t, train=False))(jax.random.key(0))
    log_p = jax.jit(
        lambda x: jax.nn.log_softmax(net.apply(params, x, t, train=False))[0, 1]
    )
    direction = jax.random.normal(jax.random.key(1), x.shape)
    slope = jnp.vdot(jax.grad(log_p)(x), direction)
    numeric = (log_p(x + 1e-2 * direction) - log_p(x - 1e-2 * direction)) / 2e-2
    np.testing.assert_allclose(slope, numeric, rtol=2e-2, atol=1e-4)


def test_sizes_are_checked():
    net = NoisyClassifier(num_classes=2, **SMALL)
    with pytest.raises(ValueError, match="divisible by 2"):
        net.init(jax.random.key(0), jnp.ones((1, 5, 4, 1)), jnp.zeros(1), train=False)
