"""BEGAN's networks: sizes counted by hand, and what the paper says of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.networks.began import Autoencoder, Decoder, Encoder


def conv(c, d):
    return 9 * c * d + d


def dense(c, d):
    return c * d + d


def count(module, *inputs, **kwargs):
    variables = jax.eval_shape(
        lambda key: module.init(key, *inputs, **kwargs), jax.random.key(0)
    )
    return sum(x.size for x in jax.tree.leaves(variables["params"]))


def test_sizes_of_the_papers_64_pixel_networks():
    """n = 128 filters and h of 64; 64 x 64 is halved three times to 8 x 8.

    The encoder's width grows by n at each halving; the decoder's is n throughout.
    """
    n, h = 128, 64
    encoder = conv(3, n) + dense(8 * 8 * 4 * n, h)
    encoder += sum(2 * conv(k * n, k * n) for k in (1, 2, 3, 4))
    encoder += sum(conv(k * n, (k + 1) * n) for k in (1, 2, 3))
    decoder = dense(h, 8 * 8 * n) + 8 * conv(n, n) + conv(n, 3)
    x, z = jnp.zeros((1, 64, 64, 3)), jnp.zeros((1, h))
    assert count(Encoder(h, n, 4), x) == encoder
    assert count(Decoder((64, 64, 3), n, 4), z, train=True) == decoder
    both = Autoencoder((64, 64, 3), h, n, 4)
    assert count(both, x, train=True) == encoder + decoder


@pytest.mark.parametrize(("shape", "scales"), [((28, 28, 1), 3), ((8, 4, 3), 1)])
def test_autoencoder_keeps_the_shape_and_the_whole_range(shape, scales):
    """Nothing holds the output in [-1, 1]: larger last weights make larger pixels."""
    x = jax.random.normal(jax.random.key(0), (3, *shape))
    module = Autoencoder(shape, 5, 4, scales)
    apply = jax.jit(lambda params, x: module.apply({"params": params}, x, train=True))
    init = jax.jit(lambda key: module.init(key, x, train=True))
    params = init(jax.random.key(1))["params"]
    y = apply(params, x)
    assert y.shape == x.shape
    out = jax.tree.map(lambda p: 100 * p, params["decoder"]["out"])
    more = {**params, "decoder": {**params["decoder"], "out": out}}
    found = apply(more, x)
    np.testing.assert_allclose(found, 100 * y, rtol=1e-4, atol=1e-4)
    assert np.abs(found).max() > 1


def test_an_image_passes_the_embedding_alone():
    """With h of one number all reconstructions lie on a curve: a Jacobian of rank 1."""
    module = Autoencoder((4, 4, 1), 1, 4, 2)
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 1))

    @jax.jit
    def jacobian_of_fresh_weights(key):
        params = module.init(key, x, train=True)
        return jax.jacobian(lambda x: module.apply(params, x, train=True).ravel())(x)

    jacobian = jacobian_of_fresh_weights(jax.random.key(1))
    s = np.linalg.svd(jacobian.reshape(16, 16), compute_uv=False)
    assert s[0] > 1e-3 and s[1] < 1e-5 * s[0]


def test_images_that_do_not_halve_are_refused():
    with pytest.raises(ValueError, match="halve 3 times"):
        count(Decoder((28, 28, 1), 4, 4), jnp.zeros((1, 2)), train=True)
