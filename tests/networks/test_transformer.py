"""Attention patterns by hand, block by block as all at once, steps as the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.networks import transformer
from genjax.networks.rematerialisation import recomputed_blocks
from genjax.networks.transformer import Pattern, Transformer, attend


def random_params(module, x):
    """Parameters of which none is zero."""
    random = np.random.RandomState(1)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.tree.map(
        lambda s: jnp.float32(0.3 * random.standard_normal(s.shape)), shapes
    )


BY_HAND = {  # Nine positions, stride 3, rows attend to columns marked x.
    "full": """
        x........
        xx.......
        xxx......
        xxxx.....
        xxxxx....
        xxxxxx...
        xxxxxxx..
        xxxxxxxx.
        xxxxxxxxx""",
    "local": """
        x........
        xx.......
        xxx......
        .xxx.....
        ..xxx....
        ...xxx...
        ....xxx..
        .....xxx.
        ......xxx""",
    "strided": """
        x........
        xx.......
        xxx......
        xxxx.....
        .xxxx....
        ..xxxx...
        x..xxxx..
        .x..xxxx.
        ..x..xxxx""",
    "fixed": """
        x........
        xx.......
        xxx......
        ..xx.....
        ..xxx....
        ..xxxx...
        ..x..xx..
        ..x..xxx.
        ..x..xxxx""",
}


@pytest.mark.parametrize("name", transformer.PATTERNS)
def test_patterns_are_those_written_out_by_hand(name):
    """Child et al., Fig. 3; row i of "strided" has {i - 3, ..., i} and i - 6."""
    rows = BY_HAND[name].split()
    expected = np.array([[c == "x" for c in row] for row in rows])
    pattern = Pattern(name, stride=3)
    np.testing.assert_array_equal(pattern.mask(9), expected)
    keys, counts = pattern.keys(9)
    for i, row in enumerate(expected):
        assert keys[i][counts[i]].tolist() == np.flatnonzero(row).tolist()


@pytest.mark.parametrize("name", transformer.PATTERNS)
@pytest.mark.parametrize("summary", [1, 2])
def test_blocks_attend_as_a_loop_over_positions_does(name, summary):
    """Each position alone: softmax over the keys of its row of the mask."""
    pattern = Pattern(name, stride=4, summary=summary)
    random = np.random.RandomState(0)
    q, k = random.standard_normal((2, 2, 12, 2, 3))
    v = random.standard_normal((2, 12, 2, 5))
    found = jax.jit(attend, static_argnums=3)(q, k, v, pattern)
    expected = np.zeros((2, 12, 2, 5))
    for b, i, n in np.ndindex(2, 12, 2):
        (seen,) = np.nonzero(pattern.mask(12)[i])
        weights = np.exp([q[b, i, n] @ k[b, j, n] / 3**0.5 for j in seen])
        expected[b, i, n] = weights / weights.sum() @ v[b, seen, n]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def make(name, *, shape=(3, 4, 1), num_levels=4, num_inputs=1, **settings):
    stride = shape[1] * shape[2]
    return Transformer(
        shape=shape,
        num_outputs=5,
        num_inputs=num_inputs,
        num_levels=num_levels,
        features=8,
        num_heads=2,
        qk_features=4,
        mlp_features=12,
        pattern=Pattern(name, stride=stride),
        dtype=jnp.dtype("float32"),
        **{"num_blocks": 2, **settings},
    )


def influences(module, params, num_inputs):
    """bool [L, L]: whether outputs of position i have a gradient in value j."""
    x = jax.random.normal(jax.random.key(2), (module.length, num_inputs))
    jacobian = jax.jacobian(lambda x: module.apply(params, x[None])[0])
    return np.abs(jax.jit(jacobian)(x)).max(axis=(1, 3)) > 0


@pytest.mark.parametrize("name", ["full", "strided"])
def test_two_blocks_see_all_values_before_a_position_and_no_other(name):
    """Two strided hops reach any earlier position: first by columns, then by rows."""
    module = make(name, num_levels=None, num_inputs=2)
    params = random_params(module, jnp.zeros((1, 12, 2)))
    seen = influences(module, params, 2)
    np.testing.assert_array_equal(seen, np.tri(12, k=-1, dtype=bool))


@pytest.mark.parametrize("name", ["local", "fixed"])
@pytest.mark.parametrize("num_blocks", [1, 2])
def test_other_patterns_see_what_powers_of_their_masks_reach(name, num_blocks):
    """The value before position j enters at j; each block is one hop of the mask."""
    module = make(name, num_levels=None, num_inputs=2, num_blocks=num_blocks)
    params = random_params(module, jnp.zeros((1, 12, 2)))
    hops = np.linalg.matrix_power(module.pattern.mask(12).astype(int), num_blocks) > 0
    expected = np.zeros((12, 12), bool)
    expected[:, :-1] = hops[:, 1:]
    np.testing.assert_array_equal(influences(module, params, 2), expected)


@pytest.mark.parametrize("name", transformer.PATTERNS)
@pytest.mark.parametrize(("num_levels", "num_inputs"), [(4, 1), (None, 3)])
def test_steps_give_what_the_whole_network_gives(name, num_levels, num_inputs):
    shape = (2, 3, 3) if num_levels else (2, 3, 1)
    module = make(name, shape=shape, num_levels=num_levels, num_inputs=num_inputs)
    random, length = np.random.RandomState(0), module.length
    x = jnp.float32(2 * random.randint(4, size=(length, num_inputs)) / 3 - 1)
    params = random_params(module, x[None])
    whole = jax.jit(module.apply)(params, x[None])[0]

    def step(cache, inputs):
        found, cache = module.apply(params, cache, *inputs, method="step")
        return cache, found

    inputs = jnp.arange(length), jnp.roll(x, 1, axis=0)
    found = jax.jit(lambda: jax.lax.scan(step, module.start(), inputs)[1])()
    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-4)


def test_dropout_is_for_training_alone():
    x = jnp.zeros((1, 12, 1))
    module = make("strided", dropout=0.5)
    params = random_params(module, x)
    rngs = {"dropout": jax.random.key(0)}
    still = jax.jit(module.apply)(params, x)
    noisy = module.apply(params, x, train=True, rngs=rngs)
    again = module.apply(params, x, train=True, rngs={"dropout": jax.random.key(1)})
    assert np.abs(noisy - still).max() > 0.01 and np.abs(noisy - again).max() > 0.01


def test_layers_computed_again_take_less_memory_and_have_equal_gradients():
    """Of sixteen layers the inputs are kept, not what lies within: here a third."""
    module, x = make("full", shape=(8, 8, 1), num_blocks=16), jnp.zeros((4, 64, 1))
    params = random_params(module, x)

    def gradient():
        def loss_fn(params):  # A new one each time, lest JAX takes the first's trace.
            return jnp.sum(jnp.square(module.apply(params, x)))

        compiled = jax.jit(jax.grad(loss_fn)).lower(params).compile()
        return compiled(params), compiled.memory_analysis().temp_size_in_bytes

    plain, memory = gradient()
    with recomputed_blocks() as found:
        again, less = gradient()
    assert found == ["a layer"] and less < 0.5 * memory
    for a, b in zip(*map(jax.tree.leaves, (plain, again)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(a).max())
