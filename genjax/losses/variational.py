"""Parts of variational bounds: densities, divergences, free bits, relaxed classes."""

import math

import jax
import jax.numpy as jnp
from jax import Array


def gaussian_log_prob(x: Array, mean: Array, log_var: Array) -> Array:
    """Log-density of N(mean, exp(log_var)) at x, per element, in nats.

    Args:
        x: Float [...].
        mean: Float, a shape that broadcasts to that of x.
        log_var: Float, likewise.

    Returns:
        Float [...]; the caller sums over dimensions.
    """
    square = jnp.square(x - mean) * jnp.exp(-log_var)
    return -0.5 * (math.log(2 * math.pi) + log_var + square)


def gaussian_kl(
    mean_q: Array, log_var_q: Array, mean_p: Array | float, log_var_p: Array | float
) -> Array:
    """KL(N(mean_q, exp(log_var_q)) || N(mean_p, exp(log_var_p))) per element, nats.

    Args:
        mean_q: Float [..., D].
        log_var_q: Float [..., D].
        mean_p: Float, a shape that broadcasts to the others; 0 for a standard normal.
        log_var_p: Likewise.

    Returns:
        Float [..., D], each at least 0. The divergence of diagonal Gaussians is the sum
        over D, which `free_bits` needs in parts.

    Reference: Kingma & Welling, arXiv:1312.6114, App. B, where p is standard normal.
    """
    log_ratio = log_var_q - log_var_p
    shift = jnp.square(mean_q - mean_p) * jnp.exp(-log_var_p)
    return 0.5 * (jnp.expm1(log_ratio) - log_ratio + shift)


def mixture_log_prob(z: Array, logits: Array, mean: Array, log_var: Array) -> Array:
    """Log-density of a mixture of K diagonal Gaussians, in nats.

    Args:
        z: Float [..., D].
        logits: Of the components, float [..., K]; softmax gives their probabilities.
        mean: Float [..., K, D].
        log_var: Float [..., K, D].

    Returns:
        Float [...]. The leading axes of all four broadcast.
    """
    components = gaussian_log_prob(z[..., None, :], mean, log_var).sum(-1)
    return jax.nn.logsumexp(jax.nn.log_softmax(logits) + components, axis=-1)


def categorical_kl(logits_q: Array, logits_p: Array) -> Array:
    """KL(Categorical(logits_q) || Categorical(logits_p)) in nats, exactly.

    Args:
        logits_q: Float [..., K].
        logits_p: Float, a shape that broadcasts to it; zeros [K] for uniform classes.

    Returns:
        Float [...].
    """
    log_q, log_p = jax.nn.log_softmax(logits_q), jax.nn.log_softmax(logits_p)
    return jnp.sum(jnp.exp(log_q) * (log_q - log_p), axis=-1)


def free_bits(kl: Array, minimum: float) -> Array:
    """KL terms of which the first `minimum` nats of each dimension cost nothing more.

    The mean over the batch is sum_j max(minimum, mean_b kl[b, j]): a dimension whose
    mean falls below the minimum counts as the minimum and passes no gradient, so that
    nothing is won by ignoring it.

    Args:
        kl: Nats of each example and dimension (or group of them), float [B, D].
        minimum: The paper's lambda, nats per dimension.

    Returns:
        Float [B], to be averaged over the batch.

    Reference: Kingma et al., arXiv:1606.04934, App. C.8.
    """
    return jnp.where(kl.mean(axis=0) > minimum, kl, minimum).sum(axis=-1)


def importance_weighted_bound(log_weights: Array) -> Array:
    """log(1/k sum_i w_i), a lower bound of log p(x) in expectation.

    It rises with k, from the ELBO at k = 1 to log p(x).

    Args:
        log_weights: log p(x, z_i) - log q(z_i | x) with z_i drawn from q, float [k, B].

    Returns:
        Nats, float [B].

    Reference: Burda et al., arXiv:1509.00519, Eq. 8.
    """
    return jax.nn.logsumexp(log_weights, axis=0) - math.log(log_weights.shape[0])


def gumbel_softmax(
    key: Array,
    logits: Array,
    temperature: Array | float,
    straight_through: bool = False,
) -> Array:
    """Draws classes relaxed to the inside of the simplex, so that gradients pass.

    softmax((logits + Gumbel noise) / temperature): the largest entry is distributed as
    the class, and as the temperature falls to 0 the others vanish.

    Args:
        key: PRNG key.
        logits: Float [..., K].
        temperature: Above 0.
        straight_through: Return the one-hot class itself with the gradient of the
            relaxed draw.

    Returns:
        Float [..., K], at least 0 with sum 1.

    Reference: Jang et al., arXiv:1611.01144, Eq. 2 and Sec. 2.2.
    """
    noisy = logits + jax.random.gumbel(key, logits.shape, logits.dtype)
    relaxed = jax.nn.softmax(noisy / temperature)
    if not straight_through:
        return relaxed
    hard = jax.nn.one_hot(noisy.argmax(-1), logits.shape[-1], dtype=logits.dtype)
    # The difference first: hard + relaxed - relaxed would round away from one-hot.
    return hard + (relaxed - jax.lax.stop_gradient(relaxed))
