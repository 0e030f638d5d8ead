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
from pixel_models import (
    BINARY,
    CATEGORICAL,
    MIXTURE,
    check_completion,
    check_sampling,
    check_sum,
    check_sum_of,
    frequencies,
    made,
)
from scipy import stats

from genjax import data, images
from genjax.config import ConfigError, base_config
from genjax.methods.autoregressive import _pixels

NETWORKS = {
    "pixelcnn": dict(features=6, num_blocks=2, out_features=6),
    "gated_pixelcnn": dict(features=6, num_layers=2, out_features=6),
    "pixelcnn_pp": dict(features=4, num_blocks=1, num_levels=3),
}
SMALL = dict(scale=0.25)  # More would grow from block to block.
CASES = [
    pytest.param(
        name, output, dict(network=NETWORKS[name], **more), id=f"{name}-{kind}"
    )
    for name, kind, output, more in [
        ("pixelcnn", "binary", BINARY, {}),
        ("pixelcnn", "categorical", CATEGORICAL, {}),
        ("pixelcnn", "mixture", MIXTURE, {}),
        ("gated_pixelcnn", "binary", BINARY, {}),
        ("gated_pixelcnn", "categorical", CATEGORICAL, dict(conditional=True)),
        ("gated_pixelcnn", "mixture", MIXTURE, {}),
        ("pixelcnn_pp", "mixture", MIXTURE, dict(conditional=True, **SMALL)),
    ]
]
PLAIN = dict(network=NETWORKS["pixelcnn"])
PLUS = dict(network=NETWORKS["pixelcnn_pp"], **SMALL)


@pytest.mark.parametrize(
    ("name", "output", "model"),
    [*CASES, pytest.param("pixelcnn_pp", BINARY, PLUS, id="pixelcnn_pp-binary")],
)
def test_probabilities_of_all_images_sum_to_one(name, output, model):
    check_sum(name, output, model)


def test_probabilities_of_grey_levels_sum_to_one():
    """PixelCNN++ takes a softmax for one channel only: 256 images of 2 x 2 pixels."""
    check_sum_of((2, 2, 1), "pixelcnn_pp", CATEGORICAL, PLUS)


@pytest.mark.parametrize(("name", "output", "model"), CASES)
def test_incremental_sampling_is_naive_sampling_with_the_likelihoods_probabilities(
    name, output, model, monkeypatch
):
    check_sampling(name, output, model, monkeypatch, (4, 5, 3))


@pytest.mark.parametrize(("name", "output", "model"), [CASES[1], CASES[5]])
def test_known_pixels_are_kept_and_the_others_follow_from_them(name, output, model):
    check_completion(name, output, model)


def test_known_pixels_between_two_levels_stay_as_they_are_given():
    method, params = made("pixelcnn", (2, 2, 1), BINARY, **PLAIN)
    given = jnp.full((3, 2, 2, 1), 0.3)
    known = jnp.zeros((3, 2, 2), bool).at[:, 0].set(True)
    keys = jax.random.split(jax.random.key(0), 3)
    done = jax.jit(method.complete)(params, {}, keys, given, known, {})
    np.testing.assert_array_equal(done[:, 0], given[:, 0])
    np.testing.assert_array_equal(abs(done[:, 1]), 1)


def test_samples_have_the_frequencies_of_the_likelihood():
    """A chi-square test of 20,000 draws over the 16 binary images of 2 x 2."""
    method, params = made("pixelcnn", (2, 2, 1), BINARY, **PLAIN)
    found, expected = frequencies(method, params, (2, 2, 1), 20_000)
    assert stats.chisquare(found, expected).pvalue > 1e-3


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


def test_draws_of_outputs_in_half_precision_have_the_frequencies_of_float32():
    """A logit of -12 is no less rare, and 256 equal logits are drawn equally often."""
    config = base_config()
    config.data.shape = (1, 1, 1)
    keys = jax.random.split(jax.random.key(0), 50_000)

    def drawn(output, logits):
        head = _pixels.make_head(config, output)
        logits = jnp.asarray(logits, jnp.bfloat16)
        draw = jax.jit(jax.vmap(lambda key: head.draw(key, logits)[0]))
        return np.asarray(draw(keys))[:, 0]

    assert drawn(BINARY, [-12.0]).mean() < 1e-4  # Expected: 6e-6.
    levels = drawn(dict(name="categorical", num_levels=256), np.zeros(256))
    assert stats.chisquare(np.bincount(levels, minlength=256)).pvalue > 1e-3


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
        made("pixelcnn", (3, 3, 1), output, **PLAIN)


def test_a_field_that_the_network_lacks_is_named():
    network = dict(NETWORKS["pixelcnn"], norm="batch")
    with pytest.raises(ConfigError, match="no field 'norm'"):
        made("pixelcnn", (3, 3, 1), BINARY, network=network)


def test_pixelcnn_pp_draws_a_pixels_channels_at_once_or_not_at_all():
    with pytest.raises(ConfigError, match="draws 3 channels one after the other"):
        made("pixelcnn_pp", (3, 3, 3), CATEGORICAL, **PLUS)
    with pytest.raises(ConfigError, match="dropout must be from 0 on and below 1"):
        network = dict(NETWORKS["pixelcnn_pp"], dropout=1.0)
        made("pixelcnn_pp", (3, 3, 3), MIXTURE, network=network)
