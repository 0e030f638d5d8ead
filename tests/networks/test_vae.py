"""Shapes and structure of encoders and decoders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.networks import vae


@pytest.mark.parametrize("sides", [(8, 8), (16, 24), (28, 28)])
@pytest.mark.parametrize("context", [None, 3])
def test_convolutional_coders_keep_any_image_size(sides, context):
    x = jnp.zeros((2, *sides, 3))
    context = None if context is None else jnp.ones((2, context))
    encoder = vae.ConvEncoder((2, 5), features=4, hidden=8)
    z, variables = encoder.init_with_output(jax.random.key(0), x, context)
    assert z.shape == (2, 2, 5)
    counts = {28: 2, 8: 1, 16: 2}
    assert len(variables["params"]) == counts[sides[0]] + 2
    decoder = vae.ConvDecoder((*sides, 3, 2), features=4, hidden=8)
    y, _ = decoder.init_with_output(jax.random.key(0), z[:, 0], context)
    assert y.shape == (2, *sides, 3, 2) and y.dtype == jnp.float32


@pytest.mark.parametrize(
    "module, shape",
    [
        (vae.MLPCoder((4, 4, 1, 2), features=(6,)), (3,)),
        (vae.ConvEncoder((3,), features=4, hidden=8), (8, 8, 1)),
        (vae.ConvDecoder((8, 8, 1, 2), features=4, hidden=8), (3,)),
    ],
    ids=["mlp", "conv encoder", "conv decoder"],
)
def test_the_context_reaches_the_output(module, shape):
    x = jax.random.normal(jax.random.key(0), (2, *shape))
    a, b = jnp.eye(2)[:, None].repeat(2, axis=1)
    variables = module.init(jax.random.key(1), x, a)
    assert jnp.abs(module.apply(variables, x, a) - module.apply(variables, x, b)).max()


def test_a_coder_without_hidden_layers_is_linear():
    module = vae.MLPCoder((2, 3), features=())
    x = jax.random.normal(jax.random.key(0), (4, 2, 2))
    variables = module.init(jax.random.key(1), x)
    sums = [module.apply(variables, v) for v in (x, 2 * x, 0 * x)]
    np.testing.assert_allclose(sums[1] - sums[2], 2 * (sums[0] - sums[2]), atol=1e-5)


def test_one_scale_is_shared_by_all_pixels():
    module = vae.SharedScale(vae.MLPCoder((4, 4, 1, 1), features=(6,)))
    z = jax.random.normal(jax.random.key(0), (3, 2))
    variables = module.init(jax.random.key(1), z)
    variables["params"]["log_scale"] += 0.7
    y = module.apply(variables, z)
    assert y.shape == (3, 4, 4, 1, 2)
    np.testing.assert_allclose(y[..., 1], 0.7, rtol=1e-6)
    assert y[..., 0].std() > 0


def test_compute_dtype_leaves_outputs_and_parameters_in_float32():
    module = vae.ConvEncoder((3,), features=4, hidden=8, dtype=jnp.bfloat16)
    y, variables = module.init_with_output(jax.random.key(0), jnp.zeros((2, 8, 8, 1)))
    assert y.dtype == jnp.float32
    leaves = jax.tree.leaves(variables)
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)
