"""Hopfield networks against their capacity, their energies and attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipes
from scipy import optimize, special, stats

from genjax import methods
from genjax.config import ConfigError
from genjax.methods.energy.hopfield import Classical, Modern

KEY = jax.random.key(0)


def random_patterns(num, size, seed=0):
    """Of -1 and 1, equally likely."""
    random = np.random.RandomState(seed)
    return random.choice([-1.0, 1.0], size=(num, size)).astype(np.float32)


def retrieve(memory, patterns, x, num_steps=10, hold_fn=lambda x: x):
    keys = jax.random.split(KEY, len(x))
    patterns, x = jnp.asarray(patterns, jnp.float32), jnp.asarray(x, jnp.float32)
    return np.asarray(memory.retrieve(patterns, x, keys, num_steps, hold_fn))


def flipped(patterns, share, seed=1):
    """With a random share of the units turned over."""
    turn = np.random.RandomState(seed).uniform(size=patterns.shape) < share
    return np.where(turn, -patterns, patterns)


@pytest.mark.parametrize(
    "load, low, high, asynchronous",
    [
        (0.05, 0, 2e-4, True),
        (0.12, 0, 0.016, True),
        (0.12, 0, 0.016, False),
        (0.3, 0.2, 0.5, True),
    ],
)
def test_hebb_holds_random_patterns_up_to_its_capacity(load, low, high, asynchronous):
    """Below 0.138 N patterns the wrong units are at most 1.6 %; above, memory is lost.

    Amit, Gutfreund & Sompolinsky, PRL 55, 1985: at the capacity 1.6 % are wrong, and
    beyond it the overlap falls to about 0.35, which is a third of the units.
    """
    size = 400
    patterns = random_patterns(int(load * size), size)
    found = retrieve(Classical("hebb", asynchronous), patterns, patterns, 6)
    assert low <= np.mean(found != patterns) <= high


def test_hebb_mends_patterns():
    """At a load of 0.05 a tenth of the units may be wrong."""
    patterns = random_patterns(20, 400)
    found = retrieve(Classical("hebb", True), patterns, flipped(patterns, 0.1))
    assert np.mean(found != patterns) < 0.001


def test_pseudo_inverse_holds_patterns_that_are_alike_where_hebb_does_not():
    """60 patterns of 100 units, each nine tenths the same as one prototype."""
    prototype = random_patterns(1, 100, seed=3)
    patterns = flipped(np.repeat(prototype, 60, axis=0), 0.1)
    assert len(np.unique(patterns, axis=0)) == 60
    kept = retrieve(Classical("pseudo_inverse", True), patterns, patterns)
    np.testing.assert_array_equal(kept, patterns)
    lost = retrieve(Classical("hebb", True), patterns, patterns)
    assert np.mean((lost != patterns).any(axis=1)) > 0.9


def classical_energy(weights, x):
    """-1/2 of the sum over all pairs, one by one."""
    return -0.5 * sum(
        weights[i, j] * x[i] * x[j] for i in range(len(x)) for j in range(len(x))
    )


@pytest.mark.parametrize("rule", ["hebb", "pseudo_inverse"])
def test_no_update_of_one_unit_raises_the_energy(rule):
    """Along two sweeps from random states of an overloaded memory; to a fixed point."""
    size, path = 12, []
    patterns, start = random_patterns(4, size), random_patterns(2, size, seed=2)
    memory = Classical(rule, asynchronous=True)

    def record(x):
        path.append(np.asarray(x))
        return x

    with jax.disable_jit():
        end = retrieve(memory, patterns, start, 2, record)
    path = np.stack([start, *path])
    assert len(path) == 1 + 2 * size
    # Each unit is asked once in a sweep, and no step turns two.
    assert ((path[1:] != path[:-1]).sum(axis=2) <= 1).all()
    if rule == "hebb":
        weights = sum(np.outer(p, p) for p in patterns) / size
    else:
        weights = patterns.T @ np.linalg.solve(patterns @ patterns.T, patterns)
    np.fill_diagonal(weights, 0)
    energy = np.array([[classical_energy(weights, x) for x in row] for row in path])
    assert (np.diff(energy, axis=0) <= 1e-5).all()
    assert (energy[-1] < energy[0] - 0.1).all()
    found = memory.energy(jnp.asarray(patterns), jnp.asarray(end))
    np.testing.assert_allclose(found, energy[-1], rtol=1e-4)
    # No unit of the end would follow anything else.
    end = retrieve(memory, patterns, end, 20)
    heard = end @ weights
    assert (np.sign(heard) == end)[np.abs(heard) > 1e-6].all()


def test_a_unit_that_hears_nothing_stays():
    """Two units that agree as often as not have no weight between them."""
    patterns = np.array([[1.0, 1.0], [1.0, -1.0]])
    x = np.array([[1.0, -1.0], [-1.0, -1.0]])
    np.testing.assert_array_equal(retrieve(Classical("hebb", True), patterns, x), x)


def test_one_modern_update_is_attention():
    """softmax(beta Q K^T) V with K = V, by scipy in float64."""
    random, beta = np.random.RandomState(0), 0.7
    patterns, x = random.normal(size=(9, 5)), random.normal(size=(4, 5))
    found = retrieve(Modern(beta), patterns, x, 1)
    expected = special.softmax(beta * x @ patterns.T, axis=1) @ patterns
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_modern_energy_is_that_of_a_mixture_of_gaussians():
    """For patterns of one length: exp(-beta E) is their mean density, times a constant.

    |x - p|^2 = |x|^2 - 2 x p + |p|^2, so at variance 1 / beta the logarithm of the
    mean of exp(-beta |x - p|^2 / 2) is -beta E.
    """
    beta, patterns = 1.3, random_patterns(7, 3)
    x = np.random.RandomState(1).normal(size=(5, 3))
    normal = [stats.multivariate_normal(p, np.eye(3) / beta) for p in patterns]
    density = np.mean([n.pdf(x) for n in normal], axis=0)
    peak = (beta / (2 * np.pi)) ** 1.5
    found = Modern(beta).energy(jnp.asarray(patterns), jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, -np.log(density / peak) / beta, rtol=1e-4)


def test_a_modern_update_steps_down_the_energys_gradient():
    """x - dE/dx by finite differences; patterns of different length."""
    random = np.random.RandomState(2)
    patterns, x = random.normal(size=(6, 4)), random.normal(size=4)

    def energy(x):
        """Eq. 2, in float64."""
        lengths = (patterns**2).sum(axis=1)
        both = special.logsumexp(2.0 * patterns @ x) / 2.0
        return -both + 0.5 * x @ x + np.log(6) / 2.0 + 0.5 * lengths.max()

    memory = Modern(2.0)
    found = memory.energy(jnp.asarray(patterns, jnp.float32), jnp.asarray(x[None]))
    np.testing.assert_allclose(found, energy(x), rtol=1e-5)
    assert found >= 0
    step = -optimize.approx_fprime(x, energy, 1e-6)
    np.testing.assert_allclose(
        retrieve(memory, patterns, x[None], 1)[0], x + step, atol=1e-4
    )


def test_modern_retrieval_tells_apart_what_classical_retrieval_cannot():
    """2,000 patterns of 64 units, 226 times the classical capacity, from 10 % noise.

    Overlaps of different patterns are at most 38 or so of 64, noise costs 13: one
    update at beta = 1 finds the pattern but for exp(-13).
    """
    patterns = random_patterns(2000, 64)
    start = flipped(patterns, 0.1)
    modern = retrieve(Modern(1.0), patterns, start, 1)
    assert np.mean((np.sign(modern) != patterns).any(axis=1)) < 0.01
    classical = retrieve(Classical("hebb", False), patterns, start)
    assert np.mean((classical != patterns).any(axis=1)) > 0.99


def made(**fields):
    """(method, model_state, images) of a tiny recipe with its model changed."""
    config = recipes.get("hopfield_digits")
    config.data.shape = (8, 8, 1)
    config.model.update(**fields)
    method = methods.load(config)
    image = random_patterns(3, 64, seed=5).reshape(-1, 8, 8, 1)
    params, state = method.init(
        KEY, {"image": jnp.asarray(255 * (image > 0), jnp.uint8)}
    )
    assert params == {} and not method.players
    return method, state, image


KINDS = [
    dict(kind="modern", beta=1.0, num_steps=3),
    dict(kind="classical", num_steps=5),
    dict(kind="classical", rule="pseudo_inverse", update="synchronous", num_steps=5),
]


@pytest.mark.parametrize("fields", KINDS, ids=["modern", "hebb", "pseudo_inverse"])
def test_stored_images_come_back(fields):
    """From noise, and from their upper half; what is known stays as it was given."""
    method, state, image = made(**fields)
    keys = jax.random.split(KEY, len(image))
    noisy = image + 0.7 * np.random.RandomState(0).normal(size=image.shape)
    mended = method.denoise({}, state, keys, jnp.asarray(noisy, jnp.float32), {})
    np.testing.assert_allclose(mended, image, atol=1e-3)
    known = np.zeros(image.shape[:3], bool)
    known[:, :4] = True
    given = np.where(known[..., None], 0.5 * image, 0).astype(np.float32)
    whole = method.complete({}, state, keys, given, known, {})
    np.testing.assert_array_equal(whole[known], given[known])
    np.testing.assert_allclose(whole[~known], image[~known], atol=1e-2)
    batch = {"image": jnp.asarray(255 * (np.stack([image, flipped(image, 0.3)]) > 0))}
    stored, other = (
        method.energy({}, state, {"image": x.astype(jnp.uint8)}) for x in batch["image"]
    )
    assert (stored < other).all()


def test_hopfield_refuses_what_it_cannot_be():
    for fields, message in [
        (dict(kind="quantum"), r"config\.model\.kind must be one of"),
        (dict(rule="delta"), r"config\.model\.rule must be one of"),
        (dict(update="random"), r"config\.model\.update must be one of"),
        (dict(beta=0.0), r"config\.model\.beta must be above 0"),
        (dict(num_steps=0), r"config\.model\.num_steps must be a whole"),
    ]:
        with pytest.raises(ConfigError, match=message):
            made(**fields)
