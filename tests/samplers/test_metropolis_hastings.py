"""Chains on a few states, whose laws are powers of their transition matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from genjax.samplers.metropolis_hastings import independence_chain

P = np.array([0.5, 0.1, 0.1, 0.3])
Q = np.array([0.1, 0.4, 0.3, 0.2])


def propose(keys):
    """State s as (one-hot [N, 4], s [N]), a tree."""
    states = jax.vmap(lambda key: jax.random.categorical(key, jnp.log(Q)))(keys)
    return jax.nn.one_hot(states, 4), states


def log_ratio(draws):
    return 7.0 + jnp.log(P / Q)[draws[1]]


def law(num_proposals: int) -> np.ndarray:
    """Of the chain's end, by its transition matrix."""
    weights = P / Q
    taken = Q * np.minimum(1, weights[None, :] / weights[:, None])
    np.fill_diagonal(taken, 0)
    np.fill_diagonal(taken, 1 - taken.sum(axis=1))
    return Q @ np.linalg.matrix_power(taken, num_proposals - 1)


@pytest.mark.parametrize("num_proposals", [1, 2, 3, 20])
def test_the_law_is_that_of_the_transition_matrix(num_proposals):
    keys = jax.random.split(jax.random.key(0), 20_000)
    one_hot, states = independence_chain(
        propose, log_ratio, keys, num_proposals=num_proposals
    )
    counts = np.bincount(states, minlength=4)
    expected = law(num_proposals)
    assert stats.chisquare(counts, expected * len(keys)).pvalue > 1e-3
    np.testing.assert_array_equal(one_hot.argmax(axis=1), states)
    if num_proposals == 20:
        np.testing.assert_allclose(expected, P, atol=1e-2)


def test_an_example_depends_on_its_own_key():
    keys = jax.random.split(jax.random.key(1), 50)
    whole = independence_chain(propose, log_ratio, keys, num_proposals=4)[1]
    part = independence_chain(
        propose, log_ratio, keys[np.array([7, 3])], num_proposals=4
    )[1]
    np.testing.assert_array_equal(part, whole[np.array([7, 3])])


def test_a_chain_needs_a_proposal():
    with pytest.raises(ValueError, match="num_proposals"):
        independence_chain(
            propose, log_ratio, jax.random.split(jax.random.key(0), 2), num_proposals=0
        )
