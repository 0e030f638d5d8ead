"""The residual networks against counts from the papers' tables and against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.networks.resnet_gan import Discriminator, DiscriminatorBlock, Generator


def count(module, *inputs):
    variables = jax.eval_shape(
        lambda key: module.init(key, *inputs, train=False), jax.random.key(0)
    )
    return sum(x.size for x in jax.tree.leaves(variables["params"]))


def run(module, *inputs):
    """(output, variables) with fresh weights."""
    init = jax.jit(lambda *inputs: module.init_with_output(*inputs, train=True))
    return init(jax.random.key(1), *inputs)


Z, IMAGES = jnp.zeros((2, 128)), jnp.zeros((2, 32, 32, 3))


def conv(size, c, d):
    """Weights and biases of a size x size convolution."""
    return size * size * c * d + d


@pytest.mark.parametrize("width", [128, 256])
def test_generator_has_the_size_of_the_papers_table(width):
    """Dense 128 -> 4 x 4 x width; three blocks, each of two batch norms, two 3 x 3
    convolutions and a 1 x 1 one; batch norm; 3 x 3 convolution to RGB.

    Width 128 is WGAN-GP's, 256 is SNGAN's.
    """
    w = width
    block = 2 * 2 * w + 2 * conv(3, w, w) + conv(1, w, w)
    expected = conv(1, 128, 16 * w) + 3 * block + 2 * w + conv(3, w, 3)
    assert expected == {128: 1_204_483, 256: 4_276_739}[width]
    assert count(Generator((32, 32, 3), (w, w, w)), Z) == expected


@pytest.mark.parametrize("norm", ["none", "spectral", "layer"])
def test_discriminator_has_the_size_of_the_papers_table(norm):
    """Four blocks of width 128: RGB and halved, halved, and two with a plain skip;
    a dense unit. Layer norm has a scale and a shift twice a block, but for the first.
    """
    w = 128
    expected = conv(3, 3, w) + conv(3, w, w) + conv(1, 3, w)
    expected += 2 * conv(3, w, w) + conv(1, w, w)
    expected += 2 * 2 * conv(3, w, w) + conv(1, w, 1)
    assert expected == 1_053_825
    expected += 3 * 2 * 2 * w if norm == "layer" else 0
    assert count(Discriminator(norm=norm), IMAGES) == expected


def test_labels_add_a_scale_and_shift_per_class_and_a_projection():
    """Batch norm by class: 10 times two vectors in place of two, in six norms."""
    label = jnp.zeros(2, jnp.int32)
    plain, by_class = (Generator((32, 32, 3), num_classes=k) for k in (None, 10))
    assert count(by_class, Z, label) == count(plain, Z) + 6 * 2 * 9 * 128
    plain, by_class = (Discriminator(num_classes=k) for k in (None, 10))
    assert count(by_class, IMAGES, label) == count(plain, IMAGES) + 10 * 128


@pytest.mark.parametrize(
    ("shape", "features"), [((28, 28, 1), (8, 4)), ((8, 16, 3), (4, 4, 4))]
)
def test_any_size_that_halves(shape, features):
    z = jax.random.normal(jax.random.key(0), (3, 5))
    image, _ = run(Generator(shape, features, dtype=jnp.bfloat16), z)
    assert image.shape == (3, *shape) and image.dtype == jnp.float32
    assert 0.05 < np.abs(image).max() <= 1
    image = jnp.ones((3, *shape))
    assert run(Discriminator((4, 4), norm="layer"), image)[0].shape == (3,)
    assert run(Discriminator((4, 4), num_outputs=7), image)[0].shape == (3, 7)


def test_block_is_its_convolutions_in_numpy():
    """Kernels that are zero but at the centre act on each pixel as a matrix."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 4, 4, 3)).astype(np.float32)
    a, b, c = (rng.standard_normal((n, 5)) for n in (3, 5, 3))

    def centred(matrix):
        kernel = np.zeros((3, 3, *matrix.shape))
        kernel[1, 1] = matrix
        return {"kernel": kernel, "bias": np.zeros(5)}

    params = {"conv_in": centred(a), "conv_out": centred(b)}
    params["skip"] = {"kernel": c[None, None], "bias": np.ones(5)}

    def halve(y):
        return (y[:, ::2] + y[:, 1::2])[:, :, ::2] / 4 + (
            (y[:, ::2] + y[:, 1::2])[:, :, 1::2] / 4
        )

    for first in (True, False):
        h = x if first else np.maximum(x, 0)
        expected = halve(np.maximum(h @ a, 0) @ b + x @ c) + 1
        block = DiscriminatorBlock(5, down=True, first=first)
        found = block.apply({"params": params}, x, train=True)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_spectral_norm_takes_every_weights_size_away():
    """With all weights ten times as large (biases start at 0) a spectral network says
    the same; a plain one, five layers deep, far more.
    """
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    for norm, ratio in [("spectral", 1.0), ("none", 1e3)]:
        judge = Discriminator((8, 8), num_down=1, norm=norm)
        variables = run(judge, x)[1]
        params = variables.pop("params")

        @jax.jit
        def values(scale, judge=judge, params=params, rest=variables):
            scaled = jax.tree.map(lambda p: scale * p, params)
            return judge.apply({"params": scaled, **rest}, x, train=False)

        small, large = values(1.0), values(10.0)
        found = np.abs(large).mean() / np.abs(small).mean()
        assert found == pytest.approx(ratio, rel=1e-3) if ratio == 1 else found > ratio


def test_projection_adds_the_inner_product_with_the_labels_vector():
    """v(x, b) - v(x, a) = (e_b - e_a) . h(x); h is numpy's pool of the last block."""
    x = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
    judge = Discriminator((4, 4), num_down=1, num_classes=2, pool="sum")
    label = jnp.array([0, 0, 1])
    variables = run(judge, x, label)[1]

    @jax.jit
    def look(label):
        return judge.apply(
            variables,
            x,
            label,
            train=True,
            capture_intermediates=lambda module, _: module.name == "block_1",
        )

    before, maps = look(label)
    (last,) = maps["intermediates"]["block_1"]["__call__"]
    h = np.maximum(last, 0).sum((1, 2))
    table = variables["params"]["label"]["embedding"]
    expected = np.sum((table[1 - label] - table[label]) * h, axis=1)
    np.testing.assert_allclose(look(1 - label)[0] - before, expected, rtol=1e-3)
    assert np.abs(expected).min() > 0.01


@pytest.mark.parametrize(
    ("module", "inputs", "words"),
    [
        (Generator((28, 28, 1), (8, 8, 8)), Z, "halve 3 times"),
        (Discriminator((8, 8, 8), num_down=3), jnp.zeros((1, 28, 28, 1)), "halve 3"),
        (Discriminator((8,), num_down=2), IMAGES, "num_down"),
        (Discriminator(norm="batch"), IMAGES, "norm must be"),
        (Discriminator(pool="max"), IMAGES, "pool must be"),
        (Discriminator(), jnp.zeros((1, 2)), "images"),
    ],
)
def test_what_does_not_fit_is_refused(module, inputs, words):
    with pytest.raises(ValueError, match=words):
        count(module, inputs)
