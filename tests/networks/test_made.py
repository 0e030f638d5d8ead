"""Which inputs an output of a MADE sees, and that steps agree with the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from genjax.networks import made
from genjax.networks.made import MADE


def random_params(module, x):
    """Parameters of which none is zero."""
    random = np.random.RandomState(1)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.tree.map(
        lambda s: jnp.float32(0.5 * random.standard_normal(s.shape)), shapes
    )


def influences(module, params, x):
    """bool [K, S, S]: whether under a mask site i has a gradient in site j."""
    jacobian = jax.jacobian(lambda x, mask: module.apply(params, x[None], mask)[0])
    masks = jnp.arange(module.num_masks)
    by_mask = jax.jit(jax.vmap(jacobian, (None, 0)))(x, masks)  # [K, S, P, S, V]
    return np.abs(by_mask).max(axis=(2, 4)) > 0


SIZES = dict(num_sites=7, num_inputs=2, num_outputs=3)


@pytest.mark.parametrize("order", made.ORDERS)
@pytest.mark.parametrize(
    "shape",
    [
        dict(features=()),
        dict(features=(13,)),
        dict(features=(6, 9)),
        dict(features=(3, 2), direct=True),
    ],
)
def test_an_output_sees_all_inputs_of_lower_rank_and_no_other(shape, order):
    module = MADE(**SIZES, **shape, order=order, num_masks=3, activation="tanh")
    x = jax.random.normal(jax.random.key(1), (7, 2))
    params = random_params(module, x[None])
    ranks = made.ranks(7, 3, order)
    assert np.array_equal(np.sort(ranks), np.tile(np.arange(7), (3, 1)))
    assert (order == "raster") == (len(np.unique(ranks, axis=0)) == 1)
    lower = ranks[:, None, :] < ranks[:, :, None]
    np.testing.assert_array_equal(influences(module, params, x), lower)


def test_too_few_units_leave_dependencies_out_as_their_degrees_say():
    """Two units of degrees 0 and 3 among 7 sites: sites up to rank 3 pass one of them,
    to ranks above it.
    """
    module = MADE(**SIZES, features=(2,), activation="tanh")
    x = jax.random.normal(jax.random.key(1), (7, 2))
    params = random_params(module, x[None])
    (seen,) = influences(module, params, x)
    expected = np.zeros((7, 7), bool)
    expected[1:, 0] = True
    expected[4:, :4] = True
    np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize("order", made.ORDERS)
@pytest.mark.parametrize("features", [(), (5,), (16, 3, 9)])
def test_steps_give_what_the_whole_network_gives(features, order):
    module = MADE(**SIZES, features=features, order=order, num_masks=2, direct=True)
    x = jax.random.normal(jax.random.key(1), (7, 2))
    params = random_params(module, x[None])
    step = jax.jit(lambda *args: module.apply(params, *args, method="step"))
    for mask in range(2):
        whole = jax.jit(module.apply)(params, x[None], mask)[0]
        sites = np.argsort(made.ranks(7, 2, order)[mask])
        cache = module.apply(params, jnp.int32(mask), method="start")
        for rank, site in enumerate(sites):
            before = x[sites[rank - 1]] if rank else jnp.full(2, jnp.nan)
            found, cache = step(cache, jnp.int32(rank), before)
            np.testing.assert_allclose(found, whole[site], rtol=1e-4, atol=1e-5)


def test_without_hidden_layers_it_is_a_logistic_regression_of_each_pixel():
    """Minimised with the same penalty, sklearn's D regressions are the same optimum.

    sklearn's objective is C sum nll + |w|^2 / 2, the bias free.
    """
    random = np.random.RandomState(0)
    base = random.rand(200, 1) < 0.5
    x = (base ^ (random.rand(200, 5) < 0.25)).astype(np.float32)
    module = MADE(features=(), num_sites=5, num_inputs=1, num_outputs=1)
    params = module.init(jax.random.key(0), x[..., None])

    @jax.jit
    def objective(params):
        logits = module.apply(params, x[..., None])[..., 0]
        nll = jnp.sum(jax.nn.softplus(logits) - x * logits)
        return nll + jnp.sum(params["params"]["kernel_0"] ** 2) / 2

    gradient, rate = jax.jit(jax.grad(objective)), 0.01
    for _ in range(2000):
        grads = gradient(params)
        params = jax.tree.map(lambda p, g: p - rate * g, params, grads)
    kernel, bias = params["params"]["kernel_0"], params["params"]["bias_0"]
    for i in range(1, 5):
        fitted = LogisticRegression(C=1.0, tol=1e-8).fit(x[:, :i], x[:, i])
        np.testing.assert_allclose(kernel[:i, i], fitted.coef_[0], atol=1e-3)
        np.testing.assert_allclose(bias[i], fitted.intercept_[0], atol=1e-3)
    assert not np.tril(kernel).any()
    np.testing.assert_allclose(jax.nn.sigmoid(bias[0]), x[:, 0].mean(), atol=1e-4)


def test_an_unknown_order_is_refused():
    with pytest.raises(ValueError, match="raster"):
        made.ranks(4, 1, "spiral")
