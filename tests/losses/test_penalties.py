"""Penalties on functions whose gradients are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.losses import penalties

POINTS, IMAGES = (5, 2), (5, 4, 4, 3)


def pair(shape):
    keys = jax.random.split(jax.random.key(0))
    return tuple(jax.random.normal(key, shape) for key in keys)


def flat(x):
    return x.reshape(len(x), -1)


@pytest.mark.parametrize("shape", [POINTS, IMAGES])
@pytest.mark.parametrize("norm", [0.0, 0.3, 1.0, 2.5])
def test_penalties_of_a_linear_critic(shape, norm):
    """f(x) = w.x has the gradient w everywhere, so where x lies does not matter."""
    real, fake = pair(shape)
    w = np.random.RandomState(0).normal(size=np.prod(shape[1:]))
    w = jnp.asarray(norm * w / np.linalg.norm(w), jnp.float32)
    key = jax.random.key(1)

    def f(x):
        return flat(x) @ w

    penalty = penalties.gradient_penalty(f, real, fake, key)
    assert penalty.shape == shape[:1]
    np.testing.assert_allclose(penalty, (norm - 1) ** 2, atol=1e-5)
    np.testing.assert_allclose(penalties.r1(f, real), norm**2 / 2, rtol=1e-5)
    found = penalties.zero_centred(f, real, fake, key)
    np.testing.assert_allclose(found, norm**2, rtol=1e-5)


@pytest.mark.parametrize("shape", [POINTS, IMAGES])
def test_penalties_of_a_quadratic(shape):
    """f(x) = |x|^2 / 2 has the gradient x: norms of the very points, one by one."""
    real, _ = pair(shape)
    key = jax.random.key(1)

    def f(x):
        return jnp.square(flat(x)).sum(-1) / 2

    expected = np.linalg.norm(flat(real), axis=1) ** 2 / 2
    np.testing.assert_allclose(penalties.r1(f, real), expected, rtol=1e-5)
    # With real = fake there is one point between them.
    found = penalties.zero_centred(f, real, real, key)
    np.testing.assert_allclose(found, 2 * expected, rtol=1e-5)
    found = penalties.gradient_penalty(f, real, real, key)
    np.testing.assert_allclose(found, (np.sqrt(2 * expected) - 1) ** 2, rtol=1e-4)


def test_points_between_lie_evenly_on_the_lines():
    """From (0, 0) to (1, 2): both entries share one uniform number, drawn per line."""
    real, fake = jnp.zeros((4096, 2)), jnp.tile(jnp.array([1.0, 2.0]), (4096, 1))
    found = np.asarray(penalties.between(real, fake, jax.random.key(0)))
    np.testing.assert_allclose(found[:, 1], 2 * found[:, 0], rtol=1e-6)
    counts, _ = np.histogram(found[:, 0], bins=8, range=(0, 1))
    assert counts.sum() == 4096
    # Eight bins of 512 +- 21.
    assert abs(counts - 512).max() < 4.5 * np.sqrt(512 * 7 / 8)


@pytest.mark.parametrize("name", ["gradient_penalty", "zero_centred"])
@pytest.mark.parametrize("shape", [POINTS, IMAGES])
def test_gradients_of_the_penalty_by_finite_differences(name, shape):
    """With respect to the critic's weights, through its gradient in x."""
    real, fake = pair(shape)
    key = jax.random.key(1)
    w = np.random.RandomState(0).normal(size=(np.prod(shape[1:]), 4)) / 3

    def penalty(w):
        def f(x):
            return jnp.tanh(flat(x) @ w).sum(-1)

        return getattr(penalties, name)(f, real, fake, key).mean()

    w = jnp.asarray(w, jnp.float32)
    slopes = jax.grad(penalty)(w)
    direction = slopes / jnp.linalg.norm(slopes)
    h = 1e-2
    rise = (penalty(w + h * direction) - penalty(w - h * direction)) / (2 * h)
    np.testing.assert_allclose(jnp.linalg.norm(slopes), rise, rtol=1e-2)


def test_derivatives_are_finite_where_the_gradient_is_zero():
    """A critic of weights 0, where the norm has no derivative: it stays finite.

    The penalty itself is (0 - 1)^2 = 1.
    """
    real, fake = pair(POINTS)
    key = jax.random.key(1)

    def penalty(w):
        return penalties.gradient_penalty(lambda x: x @ w, real, fake, key).mean()

    value, slope = jax.value_and_grad(penalty)(jnp.zeros(2))
    assert value == 1 and jnp.isfinite(slope).all()
    assert jnp.isfinite(jax.hessian(penalty)(jnp.zeros(2))).all()


def test_what_does_not_fit_is_refused():
    real, fake = pair(POINTS)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="one shape"):
        penalties.gradient_penalty(lambda x: x.sum(-1), real, fake[:1], key)
    with pytest.raises(ValueError, match="values_fn must return"):
        penalties.r1(lambda x: x.sum(-1, keepdims=True), real)
