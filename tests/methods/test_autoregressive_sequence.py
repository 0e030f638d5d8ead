"""Belief nets, MADE, PixelRNN and image transformers, as PixelCNNs are tested."""

import numpy as np
import pytest
from pixel_models import (
    BINARY,
    CATEGORICAL,
    MIXTURE,
    check_completion,
    check_sampling,
    check_sum,
    frequencies,
    made,
)
from scipy import stats

from genjax.config import ConfigError


def transformer(name, **pattern):
    """A small one with a pattern; of two strided blocks, each sees all before."""
    network = dict(features=8, num_blocks=2, num_heads=2, mlp_features=12)
    return dict(network={**network, "pattern": dict(name=name, **pattern)})


def recurrent(layer):
    """A small one with layers of that kind."""
    return dict(network=dict(features=6, layer=layer, num_layers=2, out_features=6))


RASTER = dict(features=(20, 20), num_masks=2)
RANDOM = dict(features=(20,), num_masks=3, order="random", direct=True)
TRANSFORMERS = {
    "full-binary": ("image_transformer", BINARY, transformer("full")),
    "local-categorical": ("image_transformer", CATEGORICAL, transformer("local")),
    "strided-mixture": ("image_transformer", MIXTURE, transformer("strided")),
    "fixed-binary": ("image_transformer", BINARY, transformer("fixed", summary=2)),
}
RECURRENT = {
    "row-categorical": ("pixelrnn", CATEGORICAL, recurrent("row_lstm")),
    "diagonal-mixture": ("pixelrnn", MIXTURE, recurrent("diagonal_bilstm")),
}
NETS = {
    "regressions-categorical": ("fvbn", CATEGORICAL, {}),
    "random-order-mixture": ("fvbn", MIXTURE, {**RANDOM, "num_masks": 1}),
}
SEVERAL_MASKS = {
    "raster-masks-binary": ("fvbn", BINARY, RASTER),
    "random-masks-categorical": ("fvbn", CATEGORICAL, RANDOM),
}
SUMS = {
    "strided-categorical": ("image_transformer", CATEGORICAL, transformer("strided")),
    "regressions-binary": ("fvbn", BINARY, {}),
    "row-binary": ("pixelrnn", BINARY, recurrent("row_lstm")),
    "row-mixture": ("pixelrnn", MIXTURE, recurrent("row_lstm")),
    "diagonal-binary": ("pixelrnn", BINARY, recurrent("diagonal_bilstm")),
    "diagonal-categorical": ("pixelrnn", CATEGORICAL, recurrent("diagonal_bilstm")),
}


def cases(*groups):
    """Parameters (name, output, model), with the names of groups of cases."""
    merged = {key: case for group in groups for key, case in group.items()}
    values = [pytest.param(*case, id=key) for key, case in merged.items()]
    return pytest.mark.parametrize(("name", "output", "model"), values)


@cases(TRANSFORMERS, RECURRENT, NETS, SEVERAL_MASKS, SUMS)
def test_probabilities_of_all_images_sum_to_one(name, output, model):
    check_sum(name, output, model)


@cases(TRANSFORMERS, RECURRENT, NETS)
def test_incremental_sampling_is_naive_sampling_with_the_likelihoods_probabilities(
    name, output, model, monkeypatch
):
    check_sampling(name, output, model, monkeypatch, (3, 4, 3))


@cases(SEVERAL_MASKS)
def test_each_image_is_drawn_with_one_of_several_masks_by_both_samplers(
    name, output, model, monkeypatch
):
    check_sampling(name, output, model, monkeypatch, (3, 4, 3), mixed=True)


@pytest.mark.parametrize("model", [RASTER, RANDOM], ids=["raster", "random"])
def test_draws_of_several_masks_have_the_frequencies_of_their_mixture(model):
    """A chi-square test of 20,000 draws over the 16 binary images of 2 x 2."""
    method, params = made("fvbn", (2, 2, 1), BINARY, **model)
    found, expected = frequencies(method, params, (2, 2, 1), 20_000)
    assert np.ptp(expected) > 1000
    assert stats.chisquare(found, expected).pvalue > 1e-3


def test_known_pixels_are_kept_and_the_others_follow_from_them():
    check_completion(*TRANSFORMERS["local-categorical"])


def test_known_pixels_are_kept_in_a_random_order():
    check_completion(*SEVERAL_MASKS["random-masks-categorical"], raster=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(num_heads=3), "features must be a multiple of num_heads=3, got 8"),
        (dict(qk_features=5), "qk_features must be a multiple of num_heads=2, got 5"),
        (dict(features=0), "network.features must be a whole number"),
        (dict(dropout=1.0), "dropout must lie in"),
        (dict(num_outputs=3), "must leave 'num_outputs' out"),
        (dict(num_layers=3), "no field 'num_layers'"),
        (dict(pattern=dict(name="sparse")), "pattern.name must be one of"),
        (dict(pattern=dict(width=3)), "pattern has no field 'width'"),
        (dict(pattern=dict(name="local", stride=5)), "12 values .* got 5; .* is 6"),
        (dict(pattern=dict(name="fixed", summary=5)), "summary must be at most 4"),
    ],
)
def test_networks_that_do_not_fit_are_refused(change, message):
    network = {**transformer("full")["network"], **change}
    with pytest.raises(ConfigError, match=message):
        made("image_transformer", (3, 4, 1), BINARY, network=network)
