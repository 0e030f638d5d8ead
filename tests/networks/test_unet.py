"""The U-Net against the paper's size, derivatives and diffusers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.networks.rematerialisation import recomputed_blocks
from genjax.networks.unet import UNet, check_image_size

SMALL = dict(
    out_channels=3,
    features=16,
    multipliers=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(4,),
)
ADM = dict(scale_shift=True, resblock_updown=True, head_features=8, num_classes=3)


def drawn(net, args):
    """Random parameters; zeros as at the start would hide what lies behind them."""
    shapes = jax.eval_shape(
        lambda key: net.init(key, *args, train=False), jax.random.key(0)
    )
    random = np.random.default_rng(0)

    def draw(path, p):
        if "scale" in jax.tree_util.keystr(path):
            return jnp.asarray(1 + 0.1 * random.standard_normal(p.shape), p.dtype)
        fan_in = np.prod(p.shape[:-1]) if p.ndim > 1 else 100
        return jnp.asarray(random.standard_normal(p.shape) / fan_in**0.5, p.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def inputs(height=8, width=8, **kw):
    x = jax.random.normal(jax.random.key(0), (2, height, width, 3))
    args = (x, jnp.array([1, 600]))
    return (*args, jnp.array([0, 3])) if kw.get("num_classes") else args


def initialised(**kw):
    net, args = UNet(**{**SMALL, **kw}), inputs(**kw)
    return net, drawn(net, args), args


def test_ddpm_for_cifar10_has_as_many_parameters_as_published():
    net = UNet(out_channels=3, dropout=0.1)
    params = jax.eval_shape(
        lambda key: net.init(key, jnp.ones((1, 32, 32, 3)), jnp.ones(1), train=False),
        jax.random.key(0),
    )
    assert sum(p.size for p in jax.tree.leaves(params)) == 35_746_307


@pytest.mark.parametrize("kw", [{}, {**ADM, "time_features": "fourier"}])
def test_every_parameter_has_a_gradient(kw):
    """All but the keys' bias, which adds the same to all logits of a softmax."""
    net, params, args = initialised(**kw)

    def loss_fn(params):
        return jnp.sum(jnp.square(net.apply(params, *args, train=True)))

    grads = jax.jit(jax.grad(loss_fn))(params)
    scale = max(jnp.abs(g).max() for g in jax.tree.leaves(grads))
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        if "label" in name:  # Classes 1 and 2 are not in the batch; 3 is the null.
            used = np.abs(grad).max(axis=1) > 0
            np.testing.assert_array_equal(used, [True, False, False, True])
        elif "qkv" in name and "bias" in name:
            query, key, value = jnp.split(jnp.abs(grad), 3)
            assert key.max() < 1e-5 * scale
            assert min(query.max(), value.max()) > 1e-6 * scale, name
        else:
            assert jnp.abs(grad).max() > 1e-6 * scale, name


@pytest.mark.parametrize("size", [(2, 10), (8, 12)])
@pytest.mark.parametrize("kw", [{}, ADM])
def test_shapes_are_kept(size, kw):
    net, args = UNet(**{**SMALL, "out_channels": 6, **kw}), inputs(*size, **kw)
    y, _ = jax.eval_shape(
        lambda key: net.init_with_output(key, *args, train=False), jax.random.key(0)
    )
    assert y.shape == (2, *size, 6)
    assert y.dtype == jnp.float32


def test_the_first_output_is_zero():
    net, args = UNet(**{**SMALL, "multipliers": (1,)}), inputs()
    y, _ = net.init_with_output(jax.random.key(1), *args, train=False)
    assert y.shape == (2, 8, 8, 3)
    assert not y.any()


def test_the_sides_are_treated_alike_on_oblong_images():
    """A network of symmetric kernels commutes with transposing the image.

    Transposed kernels on a transposed image give the transposed output, attention
    included: the level of 4 x 6 pixels attends, and so does that of 6 x 4.
    """
    net = UNet(**SMALL)
    x, t = inputs(8, 12)
    params = drawn(net, (x, t))

    def flip(p):
        return p.swapaxes(0, 1) if p.ndim == 4 else p

    apply = jax.jit(lambda params, x: net.apply(params, x, t, train=False))
    y = apply(params, x)
    z = apply(jax.tree.map(flip, params), x.swapaxes(1, 2))
    np.testing.assert_allclose(z.swapaxes(1, 2), y, atol=2e-4 * np.abs(y).max())


def test_blocks_computed_again_change_neither_output_nor_gradients():
    net, params, args = initialised(dropout=0.3, **ADM)

    def loss_fn(params):
        rngs = {"dropout": jax.random.key(5)}
        return jnp.sum(jnp.square(net.apply(params, *args, train=True, rngs=rngs)))

    plain = jax.jit(jax.value_and_grad(loss_fn))(params)
    with recomputed_blocks() as found:
        again = jax.jit(jax.value_and_grad(lambda p: loss_fn(p)))(params)
    assert "mid_attention" in found and "up_0_res_0" in found
    for a, b in zip(*map(jax.tree.leaves, (plain, again)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(a).max())


def test_bfloat16_computes_in_half_and_keeps_float32_parameters():
    """bfloat16 has 8 bits, so 20 layers of it stay within some per cent."""
    net, params, args = initialised()
    half = net.clone(dtype=jnp.bfloat16)
    init = jax.eval_shape(lambda k: half.init(k, *args, train=False), jax.random.key(0))
    assert {p.dtype for p in jax.tree.leaves(init)} == {jnp.dtype("float32")}
    y = jax.jit(lambda params: half.apply(params, *args, train=False))(params)
    expected = jax.jit(lambda params: net.apply(params, *args, train=False))(params)
    assert y.dtype == jnp.float32
    error = jnp.linalg.norm(y - expected) / jnp.linalg.norm(expected)
    assert 1e-4 < error < 0.1


def test_time_gets_through_where_groups_are_small():
    """With one channel per group the norm would take out all that time had added."""
    net, params, (x, t) = initialised(features=8, multipliers=(1,))
    y = net.apply(params, x, t, train=False)
    assert jnp.abs(net.apply(params, x, t + 300, train=False) - y).max() > 1e-2


def test_labels_are_asked_for_exactly_where_needed():
    x, t, label = inputs(num_classes=3)
    for kw, args in [({}, (x, t, label)), ({"num_classes": 3}, (x, t))]:
        with pytest.raises(ValueError, match="num_classes"):
            UNet(**SMALL, **kw).init(jax.random.key(0), *args, train=False)
    with pytest.raises(ValueError, match="time_features"):
        net = UNet(**SMALL, time_features="linear")
        net.init(jax.random.key(0), x, t, train=False)


@pytest.mark.parametrize(
    ("size", "nearest"),
    [((28, 28), "24x24 and 32x32"), ((3, 5), "8x8"), ((32, 20), "32x16 and 32x24")],
)
def test_sizes_that_cannot_be_halved_are_refused(size, nearest):
    with pytest.raises(ValueError, match=nearest):
        check_image_size(*size, (1, 2, 2, 2))
    check_image_size(8, 24, (1, 2, 2, 2))
    check_image_size(7, 5, (1,))


def test_the_whole_network_equals_diffusers(monkeypatch):
    """Same weights, same output as UNet2DModel, which is DDPM's own architecture.

    Its norms have a fixed number of groups, 4 of the 16 channels at the first level and
    8 at the second, which differ from ours; so ours are set to 4 throughout.
    """
    torch = pytest.importorskip("torch", reason="diffusers needs torch")
    diffusers = pytest.importorskip("diffusers", reason="compares to UNet2DModel")
    monkeypatch.setattr("genjax.networks.layers.num_groups", lambda features: 4)
    net = UNet(**SMALL)
    x, t = inputs()
    params = drawn(net, (x, t))["params"]
    theirs = diffusers.UNet2DModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        norm_eps=1e-6,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        attention_head_dim=None,
    ).eval()
    state = {}

    def put(name, p):
        kernel = p.get("kernel", p.get("scale"))
        order = (
            (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0) if kernel.ndim == 2 else (0,)
        )
        state[f"{name}.weight"] = torch.tensor(np.transpose(kernel, order))
        state[f"{name}.bias"] = torch.tensor(np.asarray(p["bias"]))

    def put_res(name, p):
        names = dict(norm_in="norm1", conv_in="conv1", emb="time_emb_proj")
        names.update(norm_out="norm2", conv_out="conv2", skip="conv_shortcut")
        for ours in p:
            put(f"{name}.{names[ours]}", p[ours])

    def put_attention(name, p):
        put(f"{name}.group_norm", p["norm"])
        put(f"{name}.to_out.0", p["out"])
        kernels = jnp.split(p["qkv"]["kernel"], 3, axis=1)
        biases = jnp.split(p["qkv"]["bias"], 3)
        for which, kernel, bias in zip("qkv", kernels, biases, strict=True):
            put(f"{name}.to_{which}", {"kernel": kernel, "bias": bias})

    for ours, name in [
        ("conv_in", "conv_in"),
        ("time_in", "time_embedding.linear_1"),
        ("time_out", "time_embedding.linear_2"),
        ("norm_out", "conv_norm_out"),
        ("conv_out", "conv_out"),
    ]:
        put(name, params[ours])
    put("down_blocks.0.downsamplers.0.conv", params["down_0_resize"]["conv"])
    put("up_blocks.0.upsamplers.0.conv", params["up_1_resize"]["conv"])
    for level in (0, 1):
        put_res(f"down_blocks.{level}.resnets.0", params[f"down_{level}_res_0"])
        put_res(f"mid_block.resnets.{level}", params[f"mid_res_{level}"])
        for i in (0, 1):
            put_res(f"up_blocks.{1 - level}.resnets.{i}", params[f"up_{level}_res_{i}"])
            put_attention(f"up_blocks.0.attentions.{i}", params[f"up_1_attention_{i}"])
    put_attention("down_blocks.1.attentions.0", params["down_1_attention_0"])
    put_attention("mid_block.attentions.0", params["mid_attention"])
    theirs.load_state_dict(state)
    with torch.no_grad():
        image = torch.tensor(np.transpose(x, (0, 3, 1, 2)))
        expected = theirs(image, torch.tensor(np.asarray(t))).sample
    y = np.transpose(net.apply({"params": params}, x, t, train=False), (0, 3, 1, 2))
    assert np.abs(y).max() > 0.1
    np.testing.assert_allclose(y, expected, atol=1e-4)
