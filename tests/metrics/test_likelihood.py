"""Units against closed forms."""

import math

import pytest

from genjax.metrics.likelihood import bits_per_dim, in_bits_per_dim


def test_a_fair_coin_per_pixel_is_one_bit():
    assert bits_per_dim(64 * math.log(2), 64) == pytest.approx(1)
    results = {"nats/nll": {"value": 64 * math.log(2), "standard_error": 6.4}}
    added = in_bits_per_dim(results, 64)["bits_per_dim/nll"]
    assert added["value"] == pytest.approx(1)
    assert added["standard_error"] == pytest.approx(0.1 / math.log(2))
