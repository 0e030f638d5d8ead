"""Autoregressive models: sums over all images, and both samplers beside the likelihood.

What a network may see is tested with the networks; here it follows again, for a pixel
that saw itself would let the probabilities of all images sum to more than one.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from genjax import data, images, methods
from genjax.config import ConfigError, base_config
from genjax.methods.autoregressive import _pixels
from genjax.samplers import autoregressive

NETWORKS = {
    "pixelcnn": dict(features=6, num_blocks=2, out_features=6),
    "gated_pixelcnn": dict(features=6, num_layers=2, out_features=6),
}
BINARY = dict(name="binary", binarize="threshold")
CATEGORICAL = dict(name="categorical", num_levels=4)
MIXTURE = dict(name="logistic_mixture", num_mixtures=2, num_levels=4)
CASES = [
    pytest.param("pixelcnn", BINARY, {}, id="pixelcnn-binary"),
    pytest.param("pixelcnn", CATEGORICAL, {}, id="pixelcnn-categorical"),
    pytest.param("pixelcnn", MIXTURE, {}, id="pixelcnn-mixture"),
    pytest.param("gated_pixelcnn", BINARY, {}, id="gated-binary"),
    pytest.param(
        "gated_pixelcnn", CATEGORICAL, dict(conditional=True), id="gated-categorical"
    ),
    pytest.param("gated_pixelcnn", MIXTURE, {}, id="gated-mixture"),
]


def made(name, shape, output, incremental=True, **model):
    """The method, and params of which none is at its initial value."""
    config = base_config()
    config.method = f"autoregressive.{name}"
    config.data.shape, config.data.num_classes = shape, 3
    config.model = dict(network=NETWORKS[name], output=output, **model)
    config.sampler = dict(incremental=incremental)
    method = methods.load(config)
    batch = dict(image=jnp.zeros((1, *shape), jnp.uint8), label=jnp.zeros(1, jnp.int32))
    random = np.random.RandomState(0)
    shapes = jax.eval_shape(method.init, jax.random.key(0), batch)[0]
    return method, jax.tree.map(
        lambda s: jnp.asarray(0.5 * random.standard_normal(s.shape), s.dtype), shapes
    )


def labels(num):
    return dict(label=jnp.arange(num) % 3)


def every_image(shape, num_levels):
    """All images of so many levels, uint8 [num_levels ** size, *shape]."""
    size = int(np.prod(shape))
    levels = np.array(list(itertools.product(range(num_levels), repeat=size)))
    return np.rint(levels * 255 / (num_levels - 1)).astype(np.uint8).reshape(-1, *shape)


@pytest.mark.parametrize(("name", "output", "model"), CASES)
def test_probabilities_of_all_images_sum_to_one(name, output, model):
    """The 512 binary images of 3 x 3, the 4096 of two pixels with 4 levels of RGB."""
    shape = (3, 3, 1) if output is BINARY else (2, 1, 3)
    every = every_image(shape, 2 if output is BINARY else 4)
    method, params = made(name, shape, output, **model)
    batch = dict(image=jnp.asarray(every), label=jnp.full(len(every), 1))
    nats, _ = jax.jit(method.log_likelihood)(params, {}, jax.random.key(0), batch)
    assert np.ptp(nats) > 1  # Far from uniform.
    assert abs(np.exp(np.float64(nats)).sum() - 1) < 1e-5


@pytest.mark.parametrize(("name", "output", "model"), CASES)
def test_incremental_sampling_is_naive_sampling_with_the_likelihoods_probabilities(
    name, output, model, monkeypatch
):
    """With one key a draw turns into another only where rounding crosses a border.

    The log-probabilities that the sampler adds up are those of the whole network on the
    finished image.
    """
    shape, num = (4, 5, 3), 6
    method, params = made(name, shape, output, **model)
    keys, totals = jax.random.split(jax.random.key(1), num), []

    def recorded(*args, sample=autoregressive.sample, **kwargs):
        levels, log_prob = sample(*args, **kwargs)
        totals.append(log_prob)
        return levels, log_prob

    monkeypatch.setattr(autoregressive, "sample", recorded)
    draw = jax.jit(lambda *args: (method.sample(*args), totals.pop()))
    drawn, log_prob = draw(params, {}, keys, labels(num))
    batch = dict(image=images.to_uint8(drawn), **labels(num))
    nats, _ = jax.jit(method.log_likelihood)(params, {}, jax.random.key(0), batch)
    np.testing.assert_allclose(log_prob, nats, rtol=1e-4)

    slow, _ = made(name, shape, output, incremental=False, **model)
    expected = jax.jit(slow.sample)(params, {}, keys, labels(num))
    np.testing.assert_array_equal(drawn, expected)
    assert np.ptp(drawn) > 1 and (drawn[0] != drawn[1]).any()


@pytest.mark.parametrize(("name", "output", "model"), [CASES[1], CASES[5]])
def test_known_pixels_are_kept_and_the_others_follow_from_them(name, output, model):
    """Where the known pixels are those that the keys draw, all is as if none were.

    Those further down than all that is unknown change nothing before them.
    """
    shape, num = (3, 4, 3), 5
    method, params = made(name, shape, output, **model)
    complete, sample = jax.jit(method.complete), jax.jit(method.sample)
    keys = jax.random.split(jax.random.key(2), num)
    drawn = sample(params, {}, keys, labels(num))
    other = sample(params, {}, keys[::-1], labels(num))
    top = jnp.zeros((num, *shape[:2]), bool).at[:, :2, :2].set(True).at[:, 0].set(True)
    same = complete(params, {}, keys, drawn, top, labels(num))
    np.testing.assert_array_equal(same, drawn)
    mixed = complete(params, {}, keys, other, top, labels(num))
    np.testing.assert_array_equal(mixed[:, 0], other[:, 0])
    np.testing.assert_array_equal(mixed[:, 1, :2], other[:, 1, :2])
    assert (mixed[:, 2] != drawn[:, 2]).any() and (mixed[:, 2] != other[:, 2]).any()
    bottom = jnp.zeros_like(top).at[:, 2].set(True)
    below = complete(params, {}, keys, other, bottom, labels(num))
    np.testing.assert_array_equal(below[:, :2], drawn[:, :2])
    np.testing.assert_array_equal(below[:, 2], other[:, 2])


def test_known_pixels_between_two_levels_stay_as_they_are_given():
    method, params = made("pixelcnn", (2, 2, 1), BINARY)
    given = jnp.full((3, 2, 2, 1), 0.3)
    known = jnp.zeros((3, 2, 2), bool).at[:, 0].set(True)
    keys = jax.random.split(jax.random.key(0), 3)
    done = jax.jit(method.complete)(params, {}, keys, given, known, {})
    np.testing.assert_array_equal(done[:, 0], given[:, 0])
    np.testing.assert_array_equal(abs(done[:, 1]), 1)


def test_samples_have_the_frequencies_of_the_likelihood():
    """A chi-square test of 20,000 draws over the 16 binary images of 2 x 2."""
    method, params = made("pixelcnn", (2, 2, 1), BINARY)
    every = every_image((2, 2, 1), 2)
    nats, _ = jax.jit(method.log_likelihood)(
        params, {}, jax.random.key(0), dict(image=jnp.asarray(every))
    )
    keys = jax.random.split(jax.random.key(3), 20_000)
    drawn = jax.jit(method.sample)(params, {}, keys, {}).reshape(-1, 4)
    found = np.bincount(np.asarray(drawn > 0) @ [8, 4, 2, 1], minlength=16)
    expected = np.exp(np.float64(nats))
    test = stats.chisquare(found, expected / expected.sum() * len(keys))
    assert test.pvalue > 1e-3


@functools.cache
def mixture_head():
    config = base_config()
    config.data.shape = (1, 1, 3)
    return _pixels.make_head(config, MIXTURE)


def test_a_mixtures_draws_have_the_frequencies_of_its_nll():
    """A chi-square test of 20,000 draws over the 64 colours of 4 levels."""
    head, random = mixture_head(), np.random.RandomState(0)
    params = jnp.asarray(random.standard_normal(head.num_outputs), jnp.float32)
    every = jnp.array(list(itertools.product(range(4), repeat=3)))
    nll = head.nll(jnp.tile(params, (64, 1, 1, 1)), every[:, None, None])
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn, log_prob = jax.jit(jax.vmap(head.draw, (0, None)))(keys, params)
    places = np.asarray(drawn) @ [16, 4, 1]
    np.testing.assert_allclose(log_prob, -nll[places], rtol=1e-4, atol=1e-5)
    expected = np.exp(-np.float64(nll))
    found = np.bincount(places, minlength=64)
    test = stats.chisquare(found, expected / expected.sum() * len(keys))
    assert test.pvalue > 1e-3


def test_the_digits_have_17_levels():
    """scikit-learn's 0..16, come to 0..255 and back."""
    options = base_config().data
    dataset = data.load(options).test.columns["image"]
    config = base_config()
    config.data.shape = (8, 8, 1)
    head = _pixels.make_head(config, dict(name="categorical", num_levels=17))
    levels = head.levels(dict(image=jnp.asarray(dataset)), jax.random.key(0))
    np.testing.assert_array_equal(np.unique(levels), np.arange(17))
    np.testing.assert_array_equal(images.to_uint8(head.floats(levels)), dataset)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (dict(name="softmax"), "config.model.output.name must be one of"),
        (dict(name="binary", binarize="none"), "binarize must be one of"),
        (dict(name="binary", num_levels=4), "no field 'num_levels'"),
        (dict(name="categorical", num_levels=1), "num_levels must be 2..256, got 1"),
        (dict(name="logistic_mixture", num_mixtures=0), "num_mixtures must be a whole"),
    ],
)
def test_outputs_that_there_are_not_are_refused(output, message):
    with pytest.raises(ConfigError, match=message):
        made("pixelcnn", (3, 3, 1), output)
