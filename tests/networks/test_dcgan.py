"""DCGAN's networks against its guidelines, and against PyTorch's layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.networks.dcgan import Discriminator, Generator, level_sizes

KEY = jax.random.key(0)


def shapes(module, *inputs):
    """{layer: {weight: shape}} of a module's parameters."""
    variables = jax.eval_shape(
        lambda: module.init(KEY, *map(jnp.zeros, inputs), train=False)
    )
    return jax.tree.map(lambda x: x.shape, variables["params"])


def moved(variables):
    """Weights and statistics away from their symmetric start."""
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(KEY, len(leaves))
    pairs = zip(leaves, keys, strict=True)
    return jax.tree.unflatten(
        tree, [x + 0.1 * jax.random.uniform(k, x.shape) for x, k in pairs]
    )


def test_the_generator_is_that_of_the_papers_figure():
    """Fig. 1: 100 -> 4 x 4 x 1024 -> 512 -> 256 -> 128 -> 64 x 64 x 3.

    Sec. 3: batch norm on all levels but the output, one dense layer, the projection.
    """
    found = shapes(Generator((64, 64, 3), features=128), (2, 100))
    widths = [1024, 512, 256, 128, 3]
    names = ["deconv_0", "deconv_1", "deconv_2", "out"]
    for i, name in enumerate(names):
        assert found[name]["kernel"] == (4, 4, widths[i + 1], widths[i])
        assert found[f"norm_{i}"]["batch"]["scale"] == (widths[i],)
    assert found["project"] == {"kernel": (100, 4 * 4 * 1024)}
    assert set(found) == {"project", *names, *(f"norm_{i}" for i in range(4))}
    # A bias before batch norm would have no effect, and no gradient.
    assert [name for name in names if "bias" in found[name]] == ["out"]


def test_the_discriminator_mirrors_it():
    """Batch norm on all levels but the input; one linear unit on the last map."""
    found = shapes(Discriminator(features=128), (2, 64, 64, 3))
    widths = [3, 128, 256, 512, 1024]
    for i in range(4):
        assert found[f"conv_{i}"]["kernel"] == (4, 4, widths[i], widths[i + 1])
        assert ("bias" in found[f"conv_{i}"]) == (i == 0)
    assert found["out"] == {"kernel": (4 * 4 * 1024, 1), "bias": (1,)}
    norms = {"norm_1", "norm_2", "norm_3"}
    assert set(found) == {*(f"conv_{i}" for i in range(4)), *norms, "out"}


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (32, 32), (64, 64), (16, 24)])
def test_sizes_come_back(size):
    def both():
        module = Generator((*size, 2), features=4)
        image, _ = module.init_with_output(KEY, jnp.ones((3, 5)), train=False)
        values, _ = Discriminator(4).init_with_output(KEY, image, train=False)
        return image, values

    image, values = jax.eval_shape(both)
    assert image.shape == (3, *size, 2) and values.shape == (3,)
    assert image.dtype == values.dtype == jnp.float32


@pytest.mark.parametrize("levels", [0, 5])
def test_levels_that_an_image_does_not_have_are_refused(levels):
    """28 -> 14 -> 7 -> 4 -> 2 -> 1 is five; 16 -> 1 only four."""
    assert level_sizes(28, 28, 5)[-1] == (1, 1)
    with pytest.raises(ValueError, match="do not halve"):
        level_sizes(28, 16, levels)


def test_weights_start_as_in_the_authors_code():
    """N(0, 0.02) for kernels and N(1, 0.02) for batch norm's scales."""
    params = Generator((16, 16, 3), features=64).init(
        KEY, jnp.zeros((1, 8)), train=False
    )["params"]
    kernel = params["deconv_0"]["kernel"]  # 4 * 4 * 64 * 128 numbers.
    assert abs(kernel.std() - 0.02) < 4.5 * 0.02 / np.sqrt(2 * kernel.size)
    assert abs(kernel.mean()) < 4.5 * 0.02 / np.sqrt(kernel.size)
    scale = params["norm_0"]["batch"]["scale"]
    assert abs(scale.mean() - 1) < 4.5 * 0.02 / np.sqrt(scale.size)
    assert abs(scale.std() - 0.02) < 4.5 * 0.02 / np.sqrt(2 * scale.size)


def torch_norm(torch, params, stats, train):
    """BatchNorm2d with the same weights; its momentum is the share of the new."""
    norm = torch.nn.BatchNorm2d(len(params["scale"]), momentum=0.1).train(train)
    for target, source in [
        (norm.weight, params["scale"]),
        (norm.bias, params["bias"]),
        (norm.running_mean, stats["mean"]),
        (norm.running_var, stats["var"]),
    ]:
        target.data = torch.tensor(np.asarray(source))
    return norm


@pytest.mark.parametrize("side, train", [(16, True), (16, False), (14, True)])
def test_networks_agree_with_pytorch(side, train):
    """The same weights in the layers that the reference implementations use.

    14 -> 7 -> 4 rounds up: a row and a column of zeros more going down, which are cut
    off again going up.
    """
    reason = "PyTorch is what this is compared to"
    torch = pytest.importorskip("torch", reason=reason)
    z = jax.random.normal(KEY, (6, 5))
    generator = Generator((side, side, 2), features=4, levels=2)
    g = moved(generator.init(KEY, z, train=False))
    image, _ = generator.apply(g, z, train=train, mutable=["batch_stats"])
    params, stats = g["params"], g["batch_stats"]
    tensor = lambda x: torch.tensor(np.asarray(x))  # noqa: E731
    h = tensor(z) @ tensor(params["project"]["kernel"])
    h = h.reshape(6, 4, 4, 8).permute(0, 3, 1, 2)
    for i, name in enumerate(["deconv_0", "out"]):
        norm = f"norm_{i}"
        norm = torch_norm(torch, params[norm]["batch"], stats[norm]["batch"], train)
        # Ours is [h, w, out, in] of the convolution that it transposes.
        kernel = tensor(params[name]["kernel"]).permute(3, 2, 0, 1)
        bias = tensor(params[name]["bias"]) if "bias" in params[name] else None
        h = torch.nn.functional.conv_transpose2d(
            torch.relu(norm(h)), kernel, bias, stride=2, padding=1
        )
        h = h[:, :, : side // (2 - i), : side // (2 - i)]
    expected = torch.tanh(h).permute(0, 2, 3, 1).detach().numpy()
    np.testing.assert_allclose(image, expected, atol=2e-5)

    discriminator = Discriminator(features=4, levels=2)
    d = moved(discriminator.init(KEY, image, train=False))
    values, changed = discriminator.apply(
        d, image, train=train, mutable=["batch_stats"]
    )
    params, stats = d["params"], d["batch_stats"]
    h = tensor(image).permute(0, 3, 1, 2)
    for i in range(2):
        kernel = tensor(params[f"conv_{i}"]["kernel"]).permute(3, 2, 0, 1)
        bias = tensor(params["conv_0"]["bias"]) if i == 0 else None
        odd = h.shape[-1] % 2
        h = torch.nn.functional.pad(h, (0, odd, 0, odd))
        h = torch.nn.functional.conv2d(h, kernel, bias, stride=2, padding=1)
        if i:
            norm = torch_norm(
                torch, params["norm_1"]["batch"], stats["norm_1"]["batch"], train
            )
            h = norm(h)
        h = torch.nn.functional.leaky_relu(h, 0.2)
    h = h.permute(0, 2, 3, 1).reshape(6, -1)
    h = h @ tensor(params["out"]["kernel"]) + tensor(params["out"]["bias"])
    np.testing.assert_allclose(values, h[:, 0].detach().numpy(), rtol=1e-4, atol=1e-4)
    mean = changed["batch_stats"]["norm_1"]["batch"]["mean"]
    np.testing.assert_allclose(mean, norm.running_mean.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "norm, train, alone",
    [
        ("batch", True, False),
        ("batch", False, True),
        ("layer", True, True),
        ("none", True, True),
        ("spectral", True, True),
    ],
)
def test_batch_norm_alone_mixes_examples(norm, train, alone):
    """What a penalty on each example's gradient relies on."""
    x = jax.random.normal(KEY, (4, 16, 16, 1))
    module = Discriminator(features=4, norm=norm)
    variables = moved(module.init(KEY, x, train=False))

    def first(rows):
        return module.apply(variables, x[rows], train=train, mutable=["batch_stats"])[
            0
        ][0]

    same = np.isclose(first(np.array([0, 1])), first(np.array([0, 2])), rtol=1e-5)
    assert same == alone


def test_layer_norm_takes_the_mean_and_size_of_a_whole_image_away():
    """Scaling the second convolution changes nothing that follows a norm."""
    x = jax.random.normal(KEY, (2, 16, 16, 1))
    module = Discriminator(features=4, norm="layer")
    variables = moved(module.init(KEY, x, train=False))
    before = module.apply(variables, x, train=True)
    variables["params"]["conv_1"]["kernel"] *= 3
    np.testing.assert_allclose(
        module.apply(variables, x, train=True), before, rtol=1e-4
    )


def test_a_spectral_norm_forgets_the_size_of_each_weight():
    x = jax.random.normal(KEY, (2, 16, 16, 1))
    module = Discriminator(features=4, norm="spectral")
    variables = moved(module.init(KEY, x, train=False))
    before = module.apply(variables, x, train=False)
    for name in ("conv_0", "conv_1", "out"):
        layer = variables["params"][name]
        layer["kernel"] = 3 * layer["kernel"]
    after = module.apply(variables, x, train=False)
    np.testing.assert_allclose(after, before, rtol=1e-4)


def test_unknown_norms_are_refused():
    with pytest.raises(ValueError, match="norm must be one of"):
        Generator((8, 8, 1), norm="spectral").init(KEY, jnp.zeros((1, 2)), train=False)
    with pytest.raises(ValueError, match="norm must be one of"):
        Discriminator(norm="group").init(KEY, jnp.zeros((1, 8, 8, 1)), train=False)
