"""What the tests of autoregressive models share: models with random weights, checks."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from genjax import images, methods
from genjax.config import base_config
from genjax.samplers import autoregressive

BINARY = dict(name="binary", binarize="threshold")
CATEGORICAL = dict(name="categorical", num_levels=4)
MIXTURE = dict(name="logistic_mixture", num_mixtures=2, num_levels=4)


def made(name, shape, output, incremental=True, scale=0.5, **model):
    """The method, and params of which none is at its initial value, of that scale."""
    config = base_config()
    config.method = f"autoregressive.{name}"
    config.data.shape, config.data.num_classes = shape, 3
    config.model = dict(output=output, **model)
    config.sampler = dict(incremental=incremental)
    method = methods.load(config)
    batch = dict(image=jnp.zeros((1, *shape), jnp.uint8), label=jnp.zeros(1, jnp.int32))
    return method, random_params(method, batch, scale)


def random_params(method, batch, scale=0.5):
    """Of the shapes that the method starts with, from a normal distribution."""
    random = np.random.RandomState(0)
    shapes = jax.eval_shape(method.init, jax.random.key(0), batch)[0]
    return jax.tree.map(
        lambda s: jnp.asarray(scale * random.standard_normal(s.shape), s.dtype), shapes
    )


def labels(num):
    return dict(label=jnp.arange(num) % 3)


def every_image(shape, num_levels):
    """All images of so many levels, uint8 [num_levels ** size, *shape]."""
    size = int(np.prod(shape))
    levels = np.array(list(itertools.product(range(num_levels), repeat=size)))
    return np.rint(levels * 255 / (num_levels - 1)).astype(np.uint8).reshape(-1, *shape)


def check_sum(name, output, model):
    """The 512 binary images of 3 x 3, the 4096 of two pixels with 4 levels of RGB.

    Those of 2 x 2 pixels would be 17 million, so that the two stand in a row and in a
    column.
    """
    for shape in [(3, 3, 1)] if output is BINARY else [(1, 2, 3), (2, 1, 3)]:
        check_sum_of(shape, name, output, model)


def check_sum_of(shape, name, output, model):
    every = every_image(shape, 2 if output is BINARY else 4)
    method, params = made(name, shape, output, **model)
    batch = dict(image=jnp.asarray(every), label=jnp.full(len(every), 1))
    nats, _ = jax.jit(method.log_likelihood)(params, {}, jax.random.key(0), batch)
    assert np.ptp(nats) > 1  # Far from uniform.
    assert abs(np.exp(np.float64(nats)).sum() - 1) < 1e-5


def check_sampling(name, output, model, monkeypatch, shape, mixed=False):
    """Samples of both samplers, with equal keys, and the log-probability of each.

    With one key a draw turns into another only where rounding crosses a border. The
    log-probabilities that the sampler adds up are those of the whole network on the
    finished image; where models are `mixed`, those of one of them.
    """
    num, totals = 6, []
    keys = jax.random.split(jax.random.key(1), num)

    def recorded(*args, sample=autoregressive.sample, **kwargs):
        levels, log_prob = sample(*args, **kwargs)
        totals.append(log_prob)
        return levels, log_prob

    monkeypatch.setattr(autoregressive, "sample", recorded)

    def draw(incremental):
        method, params = made(name, shape, output, incremental, **model)
        draw = jax.jit(lambda *args: (method.sample(*args), totals.pop()))
        return method, params, *draw(params, {}, keys, labels(num))

    method, params, drawn, log_prob = draw(True)
    _, _, expected, slow = draw(False)
    np.testing.assert_array_equal(drawn, expected)
    np.testing.assert_allclose(log_prob, slow, rtol=1e-4)
    assert np.ptp(drawn) > 1 and (drawn[0] != drawn[1]).any()
    if not mixed:
        batch = dict(image=images.to_uint8(drawn), **labels(num))
        nats, _ = jax.jit(method.log_likelihood)(params, {}, jax.random.key(0), batch)
        np.testing.assert_allclose(log_prob, nats, rtol=1e-4)


def check_completion(name, output, model, raster=True):
    """Where the known pixels are those that the keys draw, all is as if none were.

    In reading order (`raster`), those further down than all that is unknown change
    nothing before them.
    """
    shape, num = (3, 4, 3), 16
    method, params = made(name, shape, output, **model)
    complete, sample = jax.jit(method.complete), jax.jit(method.sample)
    keys = jax.random.split(jax.random.key(2), num)
    drawn = sample(params, {}, keys, labels(num))
    other = sample(params, {}, keys[::-1], labels(num))
    top = jnp.zeros((num, *shape[:2]), bool).at[:, :2, :2].set(True).at[:, 0].set(True)
    same = complete(params, {}, keys, drawn, top, labels(num))
    np.testing.assert_array_equal(same, drawn)
    mixed = complete(params, {}, keys, other, top, labels(num))
    np.testing.assert_array_equal(mixed[top], other[top])
    assert (mixed != drawn)[~top].any() and (mixed != other)[~top].any()
    bottom = jnp.zeros_like(top).at[:, 2].set(True)
    below = complete(params, {}, keys, other, bottom, labels(num))
    np.testing.assert_array_equal(below[:, 2], other[:, 2])
    if raster:
        np.testing.assert_array_equal(below[:, :2], drawn[:, :2])
    else:
        assert (below[:, :2] != drawn[:, :2]).any()


def frequencies(method, params, shape, num):
    """How often each binary image of a shape is drawn, and how often it should be."""
    every = every_image(shape, 2)
    nats, _ = jax.jit(method.log_likelihood)(
        params, {}, jax.random.key(0), dict(image=jnp.asarray(every))
    )
    keys = jax.random.split(jax.random.key(3), num)
    drawn = jax.jit(method.sample)(params, {}, keys, {}).reshape(num, -1)
    places = 2 ** np.arange(drawn.shape[1])[::-1]
    found = np.bincount(np.asarray(drawn > 0) @ places, minlength=len(every))
    expected = np.exp(np.float64(nats))
    return found, expected / expected.sum() * num
