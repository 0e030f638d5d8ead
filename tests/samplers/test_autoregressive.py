"""The sampler on tables of a joint distribution that is written down whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from genjax.samplers import autoregressive
from genjax.samplers.autoregressive import Steps

SHAPES = {"image": (2, 2, 1), "row": (1, 4, 1), "parts": (1, 2, 2)}
NUM = 20_000


def table(seed=0):
    """Probabilities of all values of four bits, float [2, 2, 2, 2]."""
    return np.random.RandomState(seed).dirichlet(np.full(16, 0.7)).reshape(2, 2, 2, 2)


def logits_of(joint):
    """(bits [4], place) -> log-odds of the bit there given those before it."""
    odds = []
    for place in range(4):
        marginal = joint.sum(axis=tuple(range(place + 1, 4)))
        ratio = np.log(marginal[..., 1] / marginal[..., 0])
        later = (1,) * (4 - place)
        odds.append(np.broadcast_to(ratio.reshape(*ratio.shape, *later), joint.shape))
    odds = jnp.float32(np.stack(odds))
    return lambda bits, place: odds[place, *bits]


def draw_fn(key, params):
    level = jax.random.bernoulli(key, jax.nn.sigmoid(params[0])).astype(jnp.int32)
    log_prob = jnp.where(level, *map(jax.nn.log_sigmoid, (params[0], -params[0])))
    return level[None], log_prob


def cached(joint, num, shape):
    """Steps whose cache is the bits that the calls have told so far."""
    logits, (_, width, channels) = logits_of(joint), shape

    def step_fn(bits, position, last):
        row, column, part = position
        start = (row * width + column) * channels
        place = (0, start if part else start - channels)
        told = jax.lax.dynamic_update_slice(bits, last, place)
        bits = jnp.where(part + column > 0, told, bits)
        return jax.vmap(logits, (0, None))(bits, start + part)[:, None], bits

    def row_fn(bits, row, above):
        place = (0, (row - 1) * width * channels)
        told = jax.lax.dynamic_update_slice(bits, above.reshape(num, -1), place)
        return jnp.where(row > 0, told, bits)

    return Steps(jnp.zeros((num, 4), jnp.int32), step_fn, row_fn)


def slow(joint, num, shape):
    """Steps that compute all four log-odds from the image so far."""
    logits = logits_of(joint)

    def outputs_fn(levels):
        bits = levels.reshape(num, 4)
        found = jax.vmap(jax.vmap(logits, (None, 0)), (0, None))(bits, jnp.arange(4))
        return found.reshape(num, *shape)

    return autoregressive.whole(outputs_fn, num, shape, shape[-1])


def draw(make, joint, shape, **completion):
    keys = jax.random.split(jax.random.key(0), NUM)
    steps = make(joint, NUM, shape)
    sample = jax.jit(
        lambda keys: autoregressive.sample(
            steps, draw_fn, keys, shape, parts=shape[-1], **completion
        )
    )
    levels, log_prob = sample(keys)
    assert levels.shape == (NUM, *shape) and levels.dtype == jnp.int32
    return np.asarray(levels).reshape(NUM, 4), np.asarray(log_prob)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_draws_have_the_frequencies_of_the_table(shape):
    """A chi-square test over the 16 images; log-probabilities are the table's own."""
    joint = table()
    bits, log_prob = draw(cached, joint, shape)
    found = np.bincount(bits @ [8, 4, 2, 1], minlength=16)
    assert stats.chisquare(found, joint.ravel() * NUM).pvalue > 1e-3
    np.testing.assert_allclose(log_prob, np.log(joint[*bits.T]), atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_slow_way_draws_the_same(shape):
    joint = table(1)
    bits, log_prob = draw(cached, joint, shape)
    expected, log_prob_expected = draw(slow, joint, shape)
    np.testing.assert_array_equal(bits, expected)
    np.testing.assert_allclose(log_prob, log_prob_expected, atol=1e-5)


@pytest.mark.parametrize("make", [cached, slow])
@pytest.mark.parametrize("shape", [SHAPES["image"], SHAPES["parts"]], ids=str)
def test_known_pixels_stay_and_the_others_are_drawn_given_those_before(make, shape):
    """The first pixel is known, and so is the last, which nothing before heeds."""
    joint, size = table(2), shape[-1]
    given = jax.random.bernoulli(jax.random.key(1), 0.5, (NUM, *shape))
    known = np.zeros((NUM, 4 // size), bool)
    known[:, 0], known[: NUM // 2, -1] = True, True
    options = dict(given=given.astype(jnp.int32), known=known.reshape(NUM, *shape[:2]))
    bits, log_prob = draw(make, joint, shape, **options)
    is_known = known.repeat(size, axis=1)
    given = np.asarray(given).reshape(NUM, 4)
    np.testing.assert_array_equal(bits[is_known], given[is_known])
    total = np.zeros(NUM)
    for place in range(4):
        before = tuple(bits[:, :place].T)
        marginal = joint.sum(axis=tuple(range(place + 1, 4)))
        chosen = marginal[(*before, bits[:, place])]
        total += np.where(
            is_known[:, place], 0, np.log(chosen / marginal[before].sum(-1))
        )
    np.testing.assert_allclose(log_prob, total, atol=1e-4)
    rows = ~is_known[:, -1]
    for first in np.ndindex(*(2,) * size):
        mine = rows & (bits[:, :size] == first).all(1)
        found = np.bincount(bits[mine] @ [8, 4, 2, 1], minlength=16).reshape(
            joint.shape
        )
        expected = joint[first] / joint[first].sum() * mine.sum()
        assert stats.chisquare(found[first].ravel(), expected.ravel()).pvalue > 1e-3


def test_an_image_depends_on_its_own_key_alone():
    shape, keys = SHAPES["image"], jax.random.split(jax.random.key(0), 4)

    def levels(keys):
        steps = cached(table(), len(keys), shape)
        return np.asarray(autoregressive.sample(steps, draw_fn, keys, shape)[0])

    np.testing.assert_array_equal(levels(keys[2:]), levels(keys)[2:])


def test_shapes_that_do_not_fit_are_refused():
    keys, known = jax.random.split(jax.random.key(0), 1), jnp.zeros((1, 1, 1), bool)
    given = jnp.zeros((1, 1, 1, 1), jnp.int32)
    sample = functools.partial(
        autoregressive.sample, Steps(None, None), draw_fn, keys, (1, 1, 3)
    )
    with pytest.raises(ValueError, match="parts=2 must divide 3"):
        sample(parts=2)
    with pytest.raises(ValueError, match="known and given go together"):
        sample(known=known)
    with pytest.raises(ValueError, match=r"got \(1, 1, 1\) and \(1, 1, 1, 1\)"):
        sample(known=known, given=given)
