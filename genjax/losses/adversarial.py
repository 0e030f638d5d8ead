"""Objectives of adversarial games: a pair of losses, one for each side.

Each takes what the discriminator (or critic) says of real and generated examples,
[B] each and of one size, and gives the loss to minimise, one value per example; the
discriminator's adds the i-th real and the i-th generated example. `logits` are log-odds
that an example is real, D = sigmoid(logits); `values` are unbounded.
"""

import jax
import jax.numpy as jnp
from jax import Array


def minimax_discriminator(
    real_logits: Array, fake_logits: Array, *, smoothing: float = 0.0
) -> Array:
    """-log D(x) - log(1 - D(G(z))): float [B], in nats.

    Minus its mean is the value V(D, G) of the game; for the best D it is 2 JSD - log 4.

    Args:
        real_logits: Of real examples, [B].
        fake_logits: Of generated ones, [B].
        smoothing: s of one-sided label smoothing: a real example counts as real with
            weight 1 - s and as generated with weight s, in [0, 1).

    References:
        Goodfellow et al., arXiv:1406.2661, Eq. 1.
        Salimans et al., arXiv:1606.03498, Sec. 3.4, for the smoothing.
    """
    _check_sizes(real_logits, fake_logits)
    on_real = jax.nn.softplus(-real_logits) + smoothing * real_logits
    return on_real + jax.nn.softplus(fake_logits)


def minimax_generator(fake_logits: Array) -> Array:
    """log(1 - D(G(z))): float [B], in nats, negative.

    It saturates: the gradient vanishes as D(G(z)) -> 0.

    Reference: Goodfellow et al., arXiv:1406.2661, Eq. 1.
    """
    return -jax.nn.softplus(fake_logits)


def non_saturating_generator(fake_logits: Array) -> Array:
    """-log D(G(z)): float [B], in nats; the gradient in the logit -> -1 as D -> 0.

    Reference: Goodfellow et al., arXiv:1406.2661, Sec. 3.
    """
    return jax.nn.softplus(-fake_logits)


def least_squares_discriminator(
    real_values: Array, fake_values: Array, *, a: float = 0.0, b: float = 1.0
) -> Array:
    """(D(x) - b)^2 / 2 + (D(G(z)) - a)^2 / 2: float [B].

    Args:
        real_values: D(x), [B].
        fake_values: D(G(z)), [B].
        a: Label of generated examples.
        b: Label of real ones.

    Reference: Mao et al., Least Squares GANs, arXiv:1611.04076, Eq. 2.
    """
    _check_sizes(real_values, fake_values)
    return (jnp.square(real_values - b) + jnp.square(fake_values - a)) / 2


def least_squares_generator(fake_values: Array, *, c: float = 1.0) -> Array:
    """(D(G(z)) - c)^2 / 2: float [B].

    With b - c = 1 and b - a = 2, as a = -1, b = 1, c = 0, the best D turns this game
    into Pearson's chi-squared between p_data + p_g and 2 p_g. The defaults, the paper's
    Eq. 9, take c = b instead.

    Args:
        fake_values: D(G(z)), [B].
        c: What the generator wants D to say of its examples.

    Reference: Mao et al., Least Squares GANs, arXiv:1611.04076, Eq. 2 and Sec. 3.2.2.
    """
    return jnp.square(fake_values - c) / 2


def wasserstein_critic(real_values: Array, fake_values: Array) -> Array:
    """f(G(z)) - f(x): float [B], in the units of the data for a 1-Lipschitz f.

    Minus its mean is at most the distance W_1, and equal to it for the best such f.

    Reference: Arjovsky et al., Wasserstein GAN, arXiv:1701.07875, Eq. 2 and 3.
    """
    _check_sizes(real_values, fake_values)
    return fake_values - real_values


def wasserstein_generator(fake_values: Array) -> Array:
    """-f(G(z)): float [B]. Reference: Arjovsky et al., arXiv:1701.07875, Eq. 4."""
    return -fake_values


def hinge_discriminator(real_values: Array, fake_values: Array) -> Array:
    """max(0, 1 - D(x)) + max(0, 1 + D(G(z))): float [B].

    Reference: Lim & Ye, Geometric GAN, arXiv:1705.02894, Sec. 3 (the soft margin).
    """
    _check_sizes(real_values, fake_values)
    return jax.nn.relu(1 - real_values) + jax.nn.relu(1 + fake_values)


def hinge_generator(fake_values: Array) -> Array:
    """-D(G(z)): float [B]. Reference: Lim & Ye, arXiv:1705.02894, Sec. 3."""
    return -fake_values


def began_discriminator(real_errors: Array, fake_errors: Array, k: Array) -> Array:
    """L(x) - k L(G(z)): float [B], in the units of the errors.

    Args:
        real_errors: Reconstruction errors L of the discriminator, an autoencoder, [B].
        fake_errors: The same of generated examples, [B].
        k: Weight of the second, scalar in [0, 1]; see `began_balance`.

    Reference: Berthelot et al., BEGAN, arXiv:1703.10717, Sec. 3.4.
    """
    _check_sizes(real_errors, fake_errors)
    return real_errors - k * fake_errors


def began_generator(fake_errors: Array) -> Array:
    """L(G(z)): float [B]. Reference: Berthelot et al., arXiv:1703.10717, Sec. 3.4."""
    return fake_errors


def began_balance(
    k: Array, real_error: Array, fake_error: Array, *, gamma: float, rate: float
) -> tuple[Array, Array]:
    """Proportional control that keeps E[L(G(z))] at gamma E[L(x)].

    Args:
        k: Before the step, scalar in [0, 1].
        real_error: E[L(x)], scalar.
        fake_error: E[L(G(z))], scalar.
        gamma: The ratio to keep, in [0, 1]; lower gives less diverse images.
        rate: Gain lambda_k of the control.

    Returns:
        The next k, held in [0, 1], and the convergence measure
        E[L(x)] + |gamma E[L(x)] - E[L(G(z))]|.

    Reference: Berthelot et al., arXiv:1703.10717, Sec. 3.4 and 3.4.1.
    """
    balance = gamma * real_error - fake_error
    return jnp.clip(k + rate * balance, 0, 1), real_error + jnp.abs(balance)


def _check_sizes(real: Array, fake: Array) -> None:
    if real.ndim != 1 or real.shape != fake.shape:
        raise ValueError(
            "the values of real and generated examples must both be [B] with one B, "
            f"got {real.shape} and {fake.shape}"
        )
