"""The networks of VQ-VAE."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.networks.vqvae import Decoder, Encoder, ResidualBlock


def count(params):
    return sum(x.size for x in jax.tree.leaves(params))


def test_the_papers_network():
    """Sec. 4.1 counted by hand: 256 units, two levels, two blocks, biases in all."""
    f, d = 256, 64
    block = (9 * f * f + f) + (f * f + f)
    encoder = (16 * 3 * f + f) + (16 * f * f + f) + 2 * block + (f * d + d)
    decoder = (9 * d * f + f) + 2 * block + (16 * f * f + f) + (16 * 3 * f + 3)
    key, x = jax.random.key(0), jnp.zeros((2, 32, 24, 3))
    z, made = jax.eval_shape(Encoder(d).init_with_output, key, x)
    assert z.shape == (2, 8, 6, d)
    assert count(made) == encoder
    image, made = jax.eval_shape(Decoder(3).init_with_output, key, z)
    assert image.shape == x.shape
    assert count(made) == decoder


@pytest.mark.parametrize("num_levels, num_res_blocks", [(1, 0), (3, 1)])
def test_any_depth(num_levels, num_res_blocks):
    small = dict(features=4, num_levels=num_levels, num_res_blocks=num_res_blocks)
    key, x = jax.random.key(0), jnp.zeros((1, 8, 16, 1))
    z, _ = jax.eval_shape(Encoder(5, **small).init_with_output, key, x)
    assert z.shape == (1, 8 // 2**num_levels, 16 // 2**num_levels, 5)
    image, _ = jax.eval_shape(Decoder(1, **small).init_with_output, key, z)
    assert image.shape == x.shape


def test_both_networks_are_those_of_pytorch():
    """The same layers from torch.nn.functional, with padding 1, on the same weights."""
    torch = pytest.importorskip("torch", reason="the reference is PyTorch's layers")
    relu = torch.relu
    small = dict(features=6, num_res_blocks=1)
    x = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    z = jax.random.normal(jax.random.key(1), (2, 2, 3, 5))

    def layers(params):
        def tensors(p):
            w, b = (torch.tensor(np.asarray(p[k])) for k in ("kernel", "bias"))
            return w.permute(3, 2, 0, 1), b

        def conv(name, h, **settings):
            return torch.nn.functional.conv2d(h, *tensors(params[name]), **settings)

        def block(h):
            p = params["block_0"]
            inner = torch.nn.functional.conv2d(
                relu(h), *tensors(p["conv_in"]), padding=1
            )
            return h + torch.nn.functional.conv2d(relu(inner), *tensors(p["conv_out"]))

        def up(name, h):
            return torch.nn.functional.conv_transpose2d(
                h, *tensors(params[name]), stride=2, padding=1
            )

        return conv, block, up

    def run(net, x):
        @jax.jit
        def made(x):
            params = net.init(jax.random.key(2), x)["params"]
            params = jax.tree.map(lambda p: p + 0.1 * jnp.cos(p + p.size), params)
            return net.apply({"params": params}, x), params

        y, params = made(x)
        image = torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)
        return y, image, *layers(params)

    found, h, conv, block, _ = run(Encoder(5, **small), x)
    h = conv("down_0", h, stride=2, padding=1)
    h = block(conv("down_1", relu(h), stride=2, padding=1))
    expected = conv("conv_out", relu(h)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, atol=1e-4)

    found, h, conv, block, up = run(Decoder(3, **small), z)
    h = up("up_1", relu(block(conv("conv_in", h, padding=1))))
    expected = up("up_0", relu(h)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_pixel_is_seen_by_codes_nearby_alone():
    """Two 4 x 4 convolutions with stride 2 see 10 pixels, or 4 codes in a row at most;
    each 3 x 3 convolution adds one code on either side.
    """
    net = Encoder(2, features=4, num_res_blocks=1)
    x = jax.random.normal(jax.random.key(0), (1, 32, 32, 1))
    params = net.init(jax.random.key(1), x)
    changed = net.apply(params, x.at[0, 16, 16].add(1.0)) - net.apply(params, x)
    rows, columns = jnp.nonzero(jnp.abs(changed[0]).max(-1) > 0)
    assert rows.min() >= 2 and rows.max() <= 6
    assert columns.min() >= 2 and columns.max() <= 6
    assert len(rows) > 9


def test_a_block_adds_what_its_second_convolution_says_to_its_input():
    """With a zero kernel and a bias of c that is c, whatever the first one does."""
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    params = ResidualBlock().init(jax.random.key(1), x)["params"]
    last = {"kernel": jnp.zeros((1, 1, 3, 3)), "bias": jnp.arange(3.0)}
    y = ResidualBlock().apply({"params": {**params, "conv_out": last}}, x)
    np.testing.assert_allclose(y, x + np.arange(3.0), rtol=1e-6)


def test_sides_must_be_halved_evenly():
    with pytest.raises(ValueError, match="multiples of 4"):
        jax.eval_shape(Encoder(2).init, jax.random.key(0), jnp.zeros((1, 30, 32, 1)))


def test_bfloat16_computes_with_float32_weights():
    key, x = jax.random.key(0), jnp.zeros((1, 8, 8, 1))
    net = Encoder(2, features=4, dtype=jnp.bfloat16)
    z, made = jax.eval_shape(net.init_with_output, key, x)
    assert z.dtype == jnp.bfloat16
    assert {p.dtype for p in jax.tree.leaves(made)} == {jnp.dtype("float32")}
