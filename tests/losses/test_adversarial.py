"""Adversarial losses at the best discriminator of known distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special, stats
from scipy.spatial import distance

from genjax.losses import adversarial

P = np.array([0.5, 0.3, 0.15, 0.05])  # Of the data, on four points.
Q = np.array([0.1, 0.2, 0.3, 0.4])  # Of the generator.
ONES = jnp.ones(4)


def mean(weights, losses):
    return float(weights @ np.asarray(losses, np.float64))


def test_the_minimax_value_of_the_best_discriminator_is_jensen_shannon():
    """D = p / (p + q), log-odds log p / q, gives V = 2 JSD - log 4 (Theorem 1).

    scipy's distance is the root of the divergence. Real and generated points have
    weights of their own, so one side at a time is given a logit at which it costs
    nothing.
    """
    logits = jnp.log(P / Q)
    of_real = adversarial.minimax_discriminator(logits, -100 * ONES)
    of_fake = adversarial.minimax_discriminator(100 * ONES, logits)
    value = -mean(P, of_real) - mean(Q, of_fake)
    jsd = distance.jensenshannon(P, Q) ** 2
    np.testing.assert_allclose(value, 2 * jsd - np.log(4), rtol=1e-5)
    # Any other D does worse, and the generator's loss is V without its first term.
    for shift in (-0.3, 0.3):
        of_real = adversarial.minimax_discriminator(logits + shift, -100 * ONES)
        of_fake = adversarial.minimax_discriminator(100 * ONES, logits + shift)
        assert -mean(P, of_real) - mean(Q, of_fake) < value
    own = mean(Q, adversarial.minimax_generator(logits))
    first = P @ np.log(P / (P + Q))
    np.testing.assert_allclose(own, value - first, rtol=1e-5)


def test_smoothed_labels_hold_the_best_discriminator_below_one():
    """D = (1 - s) p / (p + q), by scipy (arXiv:1606.03498, Sec. 3.4)."""
    for p, q in zip(P, Q, strict=True):

        def cost(logit, p=p, q=q):
            def loss(real, fake):
                pair = jnp.full(1, real), jnp.full(1, fake)
                return adversarial.minimax_discriminator(*pair, smoothing=0.2)[0]

            # The other side at a logit of 0 adds a constant.
            return p * loss(logit, 0.0) + q * loss(0.0, logit)

        best = optimize.minimize_scalar(cost, bracket=(-3, 3)).x
        np.testing.assert_allclose(special.expit(best), 0.8 * p / (p + q), atol=1e-3)


def test_the_non_saturating_loss_is_the_surprise_at_the_wrong_label():
    """-log D, by scipy's Bernoulli in float64."""
    logits = np.array([-3.0, -0.5, 0.0, 2.0])
    expected = -stats.bernoulli.logpmf(1, special.expit(logits))
    found = adversarial.non_saturating_generator(jnp.asarray(logits))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_least_squares_game_of_the_best_discriminator_is_pearson():
    """a = -1, b = 1, c = 0: 2 C(G) = chi^2(p + q || 2 q) by scipy (Theorem 1).

    The best D is (b p + a q) / (p + q). C(G) counts the generator's loss on real
    examples too, which its gradient does not see. scipy's chi^2 is
    sum (observed - expected)^2 / expected, here observed 2 q and expected p + q.
    """
    best = jnp.asarray((P - Q) / (P + Q))
    losses = adversarial.least_squares_generator(best, c=0.0)
    chi_squared = stats.chisquare(2 * Q, P + Q).statistic
    np.testing.assert_allclose(
        2 * (mean(P, losses) + mean(Q, losses)), chi_squared, rtol=1e-5
    )

    # That D is the best, by the discriminator's own loss.
    def objective(values):
        of_real = adversarial.least_squares_discriminator(values, -ONES, a=-1.0, b=1.0)
        of_fake = adversarial.least_squares_discriminator(ONES, values, a=-1.0, b=1.0)
        return P @ of_real + Q @ of_fake

    np.testing.assert_allclose(jax.grad(objective)(best), 0, atol=1e-6)
    assert objective(best + 0.1) > objective(best)


def test_the_least_squares_defaults_are_zero_one_and_one():
    """By hand: ((0.8 - 1)^2 + 0.4^2) / 2 = 0.1, (0.4 - 1)^2 / 2 = 0.18."""
    real, fake = jnp.array([0.8]), jnp.array([0.4])
    found = adversarial.least_squares_discriminator(real, fake)
    np.testing.assert_allclose(found, 0.1, rtol=1e-5)
    found = adversarial.least_squares_generator(fake)
    np.testing.assert_allclose(found, 0.18, rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_the_best_critic_gives_the_wasserstein_distance(seed):
    """On a line f' = sign(F_fake - F_real) is the best 1-Lipschitz slope.

    Then f's mean on real minus fake points is W_1, which scipy gets from sorted points.
    """
    real = np.random.RandomState(seed).normal(size=64)
    fake = np.random.RandomState(seed + 9).normal(0.7, 2.0, size=64)
    knots = np.sort(np.concatenate([real, fake]))
    below = (knots[:-1, None] >= fake).mean(1) - (knots[:-1, None] >= real).mean(1)
    f = np.concatenate([[0], np.cumsum(np.sign(below) * np.diff(knots))])
    on_real, on_fake = (jnp.asarray(np.interp(x, knots, f)) for x in (real, fake))
    loss = adversarial.wasserstein_critic(on_real, on_fake)
    expected = stats.wasserstein_distance(real, fake)
    np.testing.assert_allclose(-loss.mean(), expected, rtol=1e-5)
    # The generator's loss, beside the constant E f(x), is that distance.
    own = adversarial.wasserstein_generator(on_fake).mean() + on_real.mean()
    np.testing.assert_allclose(own, expected, rtol=1e-4)


def test_the_saturating_gradient_vanishes_and_the_other_does_not():
    """In the logit: -D for log(1 - D), -(1 - D) for -log D. Both push D upwards."""
    slope = {
        loss: jax.vmap(jax.grad(loss))(jnp.array([-20.0, 0.0, 20.0]))
        for loss in (
            adversarial.minimax_generator,
            adversarial.non_saturating_generator,
        )
    }
    for slopes in slope.values():
        assert (slopes < 0).all()
    np.testing.assert_allclose(
        slope[adversarial.minimax_generator], [-2.06115e-9, -0.5, -1], rtol=1e-5
    )
    np.testing.assert_allclose(
        slope[adversarial.non_saturating_generator], [-1, -0.5, -2.06115e-9], rtol=1e-5
    )


def test_every_generator_wants_larger_values_and_began_smaller_errors():
    fake = jnp.array([-2.0, 0.0, 0.5])
    for loss in (
        adversarial.minimax_generator,
        adversarial.non_saturating_generator,
        adversarial.least_squares_generator,
        adversarial.wasserstein_generator,
        adversarial.hinge_generator,
    ):
        assert (jax.grad(lambda v, loss=loss: loss(v).sum())(fake) < 0).all()
    slopes = jax.grad(lambda v: adversarial.began_generator(v).sum())(fake)
    np.testing.assert_array_equal(slopes, 1)


@pytest.mark.parametrize("logit", [-100.0, 100.0])
def test_losses_are_exact_at_logits_of_a_hundred(logit):
    """In float32, where exp(-100) is below the rounding of 1: 0 or 100 nats."""
    x = jnp.array([logit])
    wrong = max(logit, 0.0)  # As a generated example's logit.
    loss = adversarial.minimax_discriminator(-x, x)
    np.testing.assert_allclose(loss, 2 * wrong, atol=1e-30)
    np.testing.assert_allclose(adversarial.minimax_generator(x), -wrong, atol=1e-30)
    loss = adversarial.non_saturating_generator(x)
    np.testing.assert_allclose(loss, 100 - wrong, atol=1e-30)
    for fn in (adversarial.minimax_generator, adversarial.non_saturating_generator):
        assert jnp.isfinite(jax.grad(lambda v, fn=fn: fn(v).sum())(x)).all()


def test_hinge_by_hand():
    """Only values inside the margins count: real below 1, generated above -1."""
    real, fake = jnp.array([2.0, 0.5, -1.0]), jnp.array([-3.0, -0.5, 2.0])
    found = adversarial.hinge_discriminator(real, fake)
    np.testing.assert_allclose(found, [0, 0.5 + 0.5, 2 + 3])
    slopes = jax.jacobian(adversarial.hinge_discriminator, argnums=(0, 1))(real, fake)
    np.testing.assert_array_equal(np.diag(slopes[0]), [0, -1, -1])
    np.testing.assert_array_equal(np.diag(slopes[1]), [0, 1, 1])
    np.testing.assert_array_equal(adversarial.hinge_generator(fake), [3, 0.5, -2])


def test_began_losses_by_hand():
    real, fake = jnp.array([2.0, 1.0]), jnp.array([4.0, 0.5])
    found = adversarial.began_discriminator(real, fake, jnp.array(0.25))
    np.testing.assert_allclose(found, [1.0, 0.875])
    np.testing.assert_array_equal(adversarial.began_generator(fake), fake)


@pytest.mark.parametrize(
    "k, real, fake, k_next, measure",
    [
        (0.2, 4.0, 1.0, 0.3, 5.0),  # 0.1 (0.5 * 4 - 1) = 0.1; 4 + 1.
        (0.2, 4.0, 3.0, 0.1, 5.0),  # 0.1 (2 - 3) = -0.1; 4 + |2 - 3|.
        (0.2, 4.0, 2.0, 0.2, 4.0),  # In balance.
        (0.05, 2.0, 9.0, 0.0, 10.0),  # Held at 0.
        (0.95, 8.0, 1.0, 1.0, 11.0),  # Held at 1.
    ],
)
def test_began_balance_by_hand(k, real, fake, k_next, measure):
    found = adversarial.began_balance(
        jnp.array(k), jnp.array(real), jnp.array(fake), gamma=0.5, rate=0.1
    )
    np.testing.assert_allclose(found, (k_next, measure), atol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        adversarial.minimax_discriminator,
        adversarial.least_squares_discriminator,
        adversarial.wasserstein_critic,
        adversarial.hinge_discriminator,
        lambda real, fake: adversarial.began_discriminator(real, fake, 0.5),
    ],
)
@pytest.mark.parametrize("shapes", [((4,), (4, 1)), ((4,), (2,)), ((), ())])
def test_sizes_that_would_broadcast_are_refused(loss, shapes):
    with pytest.raises(ValueError, match="must both be"):
        loss(*map(jnp.zeros, shapes))
