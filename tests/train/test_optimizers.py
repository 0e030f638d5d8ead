"""Schedules at the points where their values are known."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax.config import ConfigError
from genjax.train.optimizers import learning_rate_schedule, make


def test_warmup_rises_in_a_line_and_cosine_ends_where_it_should():
    rate = learning_rate_schedule(1.0, "cosine", warmup_steps=10, decay_steps=110)
    assert rate(0) == 0 and rate(5) == pytest.approx(0.5) and rate(10) == 1
    assert rate(60) == pytest.approx(0.5)  # Half-way down, cos(pi / 2) = 0.
    assert rate(110) == pytest.approx(0, abs=1e-7)


def test_linear_ends_at_its_end_value_and_stays():
    rate = learning_rate_schedule(1.0, "linear", decay_steps=10, end_value=0.2)
    assert rate(5) == pytest.approx(0.6) and rate(50) == pytest.approx(0.2)


def test_constant_after_warmup():
    rate = learning_rate_schedule(0.3, warmup_steps=3)
    assert rate(3) == pytest.approx(0.3) and rate(1000) == pytest.approx(0.3)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (dict(name="adamm", learning_rate=1.0), "'adam'"),
        (dict(name="adam", learning_rate=1.0, bb1=0.5), "'b1'"),
        (dict(name="adam", learning_rate=1.0, schedule="cosin"), "'cosine'"),
        (dict(name="adam", learning_rate=-1.0), "from 0 on, got -1.0"),
        (dict(name="adam", learning_rate=1.0, clip_norm="x"), "clip_norm"),
        (dict(name="adam", learning_rate=1.0, clip_weights=-1), "clip_weights"),
        (dict(name="sgd", learning_rate=1.0, schedule="linear", warmup_steps=9), "9"),
    ],
)
def test_errors_name_what_would_work(arguments, words):
    with pytest.raises(ConfigError, match=words):
        make(num_updates=5, **arguments)


def test_weights_are_held_in_their_bounds():
    """sgd at rate 1 moves 0.5 by -0.3, and -0.1 by -2 only as far as -1."""
    tx, _ = make(5, name="sgd", learning_rate=1.0, clip_weights=1.0)
    weights = {"a": jnp.array([0.5, -0.1, 3.0])}
    grads = {"a": jnp.array([0.3, 2.0, 0.0])}
    updates, _ = tx.update(grads, tx.init(weights), weights)
    new = optax.apply_updates(weights, updates)
    np.testing.assert_allclose(new["a"], [0.2, -1.0, 1.0], rtol=1e-6)
