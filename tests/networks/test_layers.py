"""Layers against numpy, torch and flax."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from genjax.networks import layers


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("features", "groups"), [(128, 32), (256, 32), (64, 16), (32, 8), (3, 1), (36, 9)]
)
def test_groups_divide_and_hold_four_channels(features, groups):
    assert layers.num_groups(features) == groups


@pytest.mark.parametrize("per_example", [False, True])
def test_group_norm_is_mean_and_variance_of_each_group(per_example):
    """A mean of 100 standard deviations costs two digits, no more."""
    x = normal(2, 4, 6, 12) + 100
    shape = (2, 12) if per_example else (12,)
    scale, bias = normal(*shape, seed=1), normal(*shape, seed=2)
    h = np.float64(x).reshape(2, 24, 3, 4)
    h = (h - h.mean((1, 3), keepdims=True)) / h.std((1, 3), keepdims=True)
    spread = (2, 1, 1, 12) if per_example else (12,)
    expected = h.reshape(x.shape) * scale.reshape(spread) + bias.reshape(spread)
    y = layers.group_norm(x, scale, bias, 3)
    np.testing.assert_allclose(y, expected, atol=2e-4)


def test_group_norm_equals_torchs_forward_and_backward():
    torch = pytest.importorskip("torch", reason="compares to torch's group norm")
    x, scale, bias, ct = normal(2, 4, 6, 12), normal(12), normal(12, seed=2), None
    ct = normal(2, 4, 6, 12, seed=3)
    a, b, c = (torch.tensor(v, requires_grad=True) for v in (x, scale, bias))
    y = torch.nn.functional.group_norm(a.permute(0, 3, 1, 2), 3, b, c, 1e-6)
    y = torch.nn.functional.silu(y).permute(0, 2, 3, 1)
    y.backward(torch.tensor(ct))
    ours, vjp = jax.vjp(
        lambda *args: layers.group_norm(*args, 3, 1e-6, nn.silu), x, scale, bias
    )
    np.testing.assert_allclose(ours, y.detach(), atol=1e-5)
    for grad, tensor in zip(vjp(ct), (a, b, c), strict=True):
        np.testing.assert_allclose(grad, tensor.grad, atol=2e-5)


def test_group_norm_differentiates_twice_in_both_modes():
    x, scale, bias = normal(2, 3, 8), normal(8), normal(8, seed=2)
    args = [jnp.asarray(v) for v in (x, scale, bias)]

    def norm(*args):
        return layers.group_norm(*args, 2, 1e-2, jnp.tanh)

    check_grads(norm, args, order=2, modes=("fwd", "rev"), atol=3e-2, rtol=3e-2)


def test_group_norm_has_the_second_derivative_of_flaxs():
    """The shift of the variance must not count as a constant twice over."""
    x = jnp.asarray(normal(1, 2, 4) + 3)
    ones, zeros = jnp.ones(4), jnp.zeros(4)
    theirs = nn.GroupNorm(2, epsilon=1e-2)
    params = {"params": {"scale": ones, "bias": zeros}}

    def ours(x):
        return jnp.sum(layers.group_norm(x, ones, zeros, 2, 1e-2) ** 3)

    def expected(x):
        return jnp.sum(theirs.apply(params, x) ** 3)

    np.testing.assert_allclose(
        jax.hessian(ours)(x), jax.hessian(expected)(x), atol=1e-3
    )


def test_sinusoidal_embedding_is_ddpms_table():
    """sin and cos of t * 10000^(-i / (half - 1)), typed out for width 4: 1 and 1e-4."""
    emb = layers.sinusoidal_embedding(jnp.array([0, 7]), 4)
    expected = [[0, 0, 1, 1], np.r_[np.sin([7, 7e-4]), np.cos([7, 7e-4])]]
    np.testing.assert_allclose(emb, expected, atol=1e-6)


def test_sinusoidal_embedding_equals_diffusers():
    pytest.importorskip("torch", reason="diffusers needs torch")
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    import torch

    t = np.arange(0, 1000, 37)
    theirs = embeddings.get_timestep_embedding(
        torch.tensor(t), 64, flip_sin_to_cos=False, downscale_freq_shift=1
    )
    # Angles reach 1000, where float32 resolves 6e-5.
    np.testing.assert_allclose(
        layers.sinusoidal_embedding(jnp.asarray(t), 64), theirs, atol=2e-4
    )


def test_fourier_features_estimate_a_gaussian_kernel():
    """The mean of cos(2 pi f (s - t)) over f ~ N(0, r^2) is exp(-2 (pi r (s - t))^2).

    With n = 2000 frequencies the standard error is below 1 / sqrt(2 n) = 0.016.
    """
    t = jnp.array([0.0, 0.02, 0.05, 0.2])
    emb = layers.fourier_features(t, 4000, scale=4.0)
    kernel = emb @ emb[0] / 2000
    expected = np.exp(-2 * (np.pi * 4.0 * np.asarray(t)) ** 2)
    np.testing.assert_allclose(kernel, expected, atol=0.06)
    again = layers.fourier_features(t, 4000, scale=4.0)
    np.testing.assert_array_equal(emb, again)


@pytest.mark.parametrize(
    ("kernel_size", "strides", "features_in", "features", "dtype"),
    [
        ((3, 3), (1, 1), 128, 128, None),  # Winograd, on CPUs.
        ((3, 3), (1, 1), 5, 7, None),
        ((3, 3), (2, 2), 8, 6, None),
        ((1, 1), (1, 1), 5, 7, None),
        ((1, 1), (2, 2), 5, 7, None),
        ((3, 3), (1, 1), 64, 64, jnp.bfloat16),
    ],
)
def test_conv_is_flax_conv(kernel_size, strides, features_in, features, dtype):
    """Same parameters, same output; sums of 9 * 128 terms round to about 1e-5."""
    x = jnp.asarray(normal(8, 7, 6, features_in))  # 32 tiles of 4 x 4.
    ours = layers.Conv(features, kernel_size, strides, dtype=dtype)
    theirs = nn.Conv(features, kernel_size, strides, dtype=dtype)
    params = theirs.init(jax.random.key(0), x)
    again = ours.init(jax.random.key(0), x)
    assert jax.tree.all(jax.tree.map(lambda a, b: jnp.array_equal(a, b), params, again))
    y, expected = ours.apply(params, x), theirs.apply(params, x)
    assert y.dtype == expected.dtype
    tolerance = 2e-5 if dtype is None else 2e-2
    np.testing.assert_allclose(
        y.astype(jnp.float32), expected.astype(jnp.float32), atol=tolerance
    )


@pytest.mark.parametrize("features", [8, 128])
def test_conv_that_upsamples_is_repeat_then_conv(features):
    x = jnp.asarray(normal(2, 3, 5, features))
    conv = layers.Conv(features, upsample=True)
    params = conv.init(jax.random.key(0), x)
    doubled = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    expected = nn.Conv(features, (3, 3)).apply(params, doubled)
    np.testing.assert_allclose(conv.apply(params, x), expected, atol=2e-5)


def test_resizing():
    x = np.arange(8.0).reshape(1, 2, 4, 1)
    up = layers.upsample_nearest(jnp.asarray(x))
    np.testing.assert_array_equal(up, x.repeat(2, 1).repeat(2, 2))
    down = layers.downsample_mean(jnp.asarray(x))
    np.testing.assert_array_equal(down[0, 0, :, 0], [2.5, 4.5])


@pytest.mark.parametrize("resize", [None, "down", "up"])
@pytest.mark.parametrize("scale_shift", [False, True])
def test_a_new_res_block_is_its_skip(resize, scale_shift):
    """The zero second convolution silences the branch; only the resizing remains."""
    x, emb = jnp.asarray(normal(2, 4, 6, 8)), jnp.asarray(normal(2, 5))
    block = layers.ResBlock(8, scale_shift=scale_shift, resize=resize)
    y, _ = block.init_with_output(jax.random.key(0), x, emb, train=False)
    resized = {None: lambda x: x, "down": layers.downsample_mean}
    np.testing.assert_array_equal(y, resized.get(resize, layers.upsample_nearest)(x))


@pytest.mark.parametrize("resize", [None, "down", "up"])
def test_the_res_block_of_adm_equals_diffusers(resize, monkeypatch):
    """Adaptive group norm, and resizing of both branches, with the same weights."""
    torch = pytest.importorskip("torch", reason="diffusers needs torch")
    resnet = pytest.importorskip("diffusers.models.resnet")
    monkeypatch.setattr(layers, "num_groups", lambda features: 4)
    x, emb = normal(2, 4, 6, 8), normal(2, 5)
    block = layers.ResBlock(16, scale_shift=True, resize=resize)
    shapes = jax.eval_shape(
        lambda key: block.init(key, x, emb, train=False)["params"], jax.random.key(0)
    )
    params = jax.tree.map(lambda p: 0.3 * normal(*p.shape), shapes)
    theirs = resnet.ResnetBlock2D(
        in_channels=8,
        out_channels=16,
        temb_channels=5,
        groups=4,
        eps=1e-6,
        time_embedding_norm="scale_shift",
        up=resize == "up",
        down=resize == "down",
    ).eval()
    names = dict(norm_in="norm1", conv_in="conv1", emb="time_emb_proj")
    names.update(norm_out="norm2", conv_out="conv2", skip="conv_shortcut")
    state = {}
    for ours, name in names.items():
        weight = params[ours].get("kernel", params[ours].get("scale"))
        order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[weight.ndim]
        state[f"{name}.weight"] = torch.tensor(weight.transpose(order))
        state[f"{name}.bias"] = torch.tensor(params[ours]["bias"])
    theirs.load_state_dict(state)
    with torch.no_grad():
        images = torch.tensor(x.transpose(0, 3, 1, 2))
        expected = theirs(images, torch.tensor(emb)).numpy().transpose(0, 2, 3, 1)
    y = block.apply({"params": params}, x, emb, train=False)
    np.testing.assert_allclose(y, expected, atol=1e-4)


def test_dropout_is_the_only_difference_of_training():
    x, emb = jnp.ones((2, 4, 4, 8)), jnp.ones((2, 5))
    for rate, equal in [(0.0, True), (0.5, False)]:
        block = layers.ResBlock(8, dropout=rate)
        params = block.init(jax.random.key(0), x, emb, train=False)
        params = jax.tree.map(lambda p: p + 0.1, params)
        x = jnp.asarray(normal(2, 4, 4, 8))
        still = block.apply(params, x, emb, train=False)
        rngs = {"dropout": jax.random.key(1)}
        moving = block.apply(params, x, emb, train=True, rngs=rngs)
        assert bool(jnp.array_equal(still, moving)) == equal


@pytest.mark.parametrize(("kernel_size", "padding"), [(4, 1), (5, 2)])
def test_transposed_convolution_equals_torchs(kernel_size, padding):
    """torch's kernel is [in, out, h, w]; an odd one needs one row more at the end.

    For 5 x 5, the strided convolution pads one row before and two after, torch's two
    before and one after once `output_padding` is 1: so both ends are cut by hand.
    """
    torch = pytest.importorskip("torch", reason="compares to torch's layer")
    x = normal(2, 3, 5, 6)
    module = layers.ConvTranspose(4, (kernel_size, kernel_size))
    variables = module.init(jax.random.key(0), x)
    kernel = np.asarray(variables["params"]["kernel"])  # [h, w, out, in]
    assert kernel.shape == (kernel_size, kernel_size, 4, 6)
    y = torch.nn.functional.conv_transpose2d(
        torch.tensor(x).permute(0, 3, 1, 2),
        torch.tensor(kernel).permute(3, 2, 0, 1),
        stride=2,
    )
    before = padding if kernel_size == 4 else 1
    y = y[:, :, before : before + 6, before : before + 10].permute(0, 2, 3, 1)
    ours = module.apply(variables, x)
    assert ours.shape == (2, 6, 10, 4)
    np.testing.assert_allclose(ours, y, atol=1e-5)
    check_grads(module.apply, (variables, x), order=2, modes=("rev",), rtol=0.02)


def test_an_activation_has_a_known_name():
    np.testing.assert_allclose(layers.activation("leaky_relu")(-1.0), -0.2)
    with pytest.raises(ValueError, match="relu"):
        layers.activation("rellu")


@pytest.mark.parametrize(
    "sides, expected",
    [((28, 28), 2), ((32, 32), 3), ((8, 8), 1), ((64, 64), 4), ((16, 24), 2)],
)
def test_images_are_halved_while_they_can_be(sides, expected):
    """28 -> 14 -> 7 stops at the odd, 64 -> 4 at the small."""
    assert layers.num_halvings(*sides) == expected


@pytest.mark.parametrize("sides", [(6, 6), (7, 28), (9, 9), (28, 27)])
def test_images_that_cannot_be_halved_are_refused(sides):
    with pytest.raises(ValueError, match="even sides of at least 8"):
        layers.num_halvings(*sides)
