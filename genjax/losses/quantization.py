"""Vector quantisation: nearest codes, their losses and their moving averages.

van den Oord et al., Neural Discrete Representation Learning, arXiv:1711.00937.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array

CHUNK = 2**24  # Distances held at a time, 64 MiB of them.


def nearest(z: Array, codebook: Array) -> Array:
    """Which code is nearest to each vector, of equally near ones the first.

    Distances come from matrix products. Where all of them would take too much memory
    the codes go by in chunks, rather than the vectors, which may lie on many devices.

    Args:
        z: Vectors, float [..., D].
        codebook: Codes, float [K, D].

    Returns:
        Indices, int32 [...] in 0..K-1. No gradient flows through them.

    Raises:
        ValueError: If vectors and codes differ in width.
    """
    if z.shape[-1] != codebook.shape[-1]:
        raise ValueError(f"codes have width {codebook.shape[-1]}, vectors {z.shape}")
    num_codes = len(codebook)
    flat = jax.lax.stop_gradient(z).astype(jnp.float32).reshape(-1, z.shape[-1])
    codes = jax.lax.stop_gradient(codebook).astype(jnp.float32)
    size = min(num_codes, max(1, CHUNK // max(1, len(flat))))

    def search(best: tuple[Array, Array], first: Array) -> tuple[tuple, None]:
        # The last chunk reaches back over some codes of the one before it.
        first = jnp.minimum(first, num_codes - size)
        part = jax.lax.dynamic_slice_in_dim(codes, first, size)
        products = jnp.matmul(flat, part.T, precision=jax.lax.Precision.HIGHEST)
        # |z - e|^2 / 2 but for |z|^2 / 2, which is the same for every code.
        distances = jnp.square(part).sum(-1) / 2 - products
        index = first + distances.argmin(-1).astype(jnp.int32)
        closer = distances.min(-1) < best[0]
        smallest = jnp.where(closer, distances.min(-1), best[0])
        return (smallest, jnp.where(closer, index, best[1])), None

    best = jnp.full(len(flat), jnp.inf), jnp.zeros(len(flat), jnp.int32)
    if size == num_codes:
        (_, indices), _ = search(best, jnp.int32(0))
    else:
        firsts = jnp.arange(0, num_codes, size, dtype=jnp.int32)
        (_, indices), _ = jax.lax.scan(search, best, firsts)
    return indices.reshape(z.shape[:-1])


def quantize(z: Array, codebook: Array) -> tuple[Array, Array]:
    """Replaces vectors by their nearest codes; gradients pass straight through to z.

    Args:
        z: What the encoder says, float [..., D].
        codebook: Codes, float [K, D]. No gradient reaches them from here.

    Returns:
        The codes, float [..., D], whose gradient is handed to `z` unchanged, and their
        indices, int32 [...].

    Reference:
        arXiv:1711.00937, Eq. 1 and 2 and Sec. 3.2.
    """
    indices = nearest(z, codebook)
    return z + jax.lax.stop_gradient(codebook[indices] - z), indices


def codebook_loss(z: Array, codebook: Array, indices: Array) -> Array:
    """|| sg[z] - e ||^2, which draws codes to the vectors that chose them.

    The square is averaged over positions and channels, as in the authors' code, where
    the paper has a sum; so it does not grow with resolution.

    Args:
        z: What the encoder says, float [B, ..., D]; gets no gradient.
        codebook: Codes, float [K, D].
        indices: Of the nearest codes, int32 [B, ...].

    Returns:
        Mean squared distance per example, float [B].

    Reference:
        arXiv:1711.00937, Eq. 3, second term.
    """
    return _squared_error(jax.lax.stop_gradient(z), codebook[indices])


def commitment_loss(z: Array, codebook: Array, indices: Array) -> Array:
    """|| z - sg[e] ||^2, which holds vectors to the codes that they chose.

    Averaged as `codebook_loss` is, with the same arguments; beta is the caller's.

    Reference:
        arXiv:1711.00937, Eq. 3, third term.
    """
    return _squared_error(z, jax.lax.stop_gradient(codebook)[indices])


def _squared_error(a: Array, b: Array) -> Array:
    return jnp.square(a - b).mean(axis=range(1, a.ndim))


def initial_codebook(key: Array, z: Array, num_codes: int) -> Array:
    """Codes that are random vectors of a batch, each taken once where there are enough.

    Args:
        key: PRNG key.
        z: What the encoder says, float [..., D].
        num_codes: K.

    Returns:
        Codes, float32 [K, D].
    """
    flat = z.astype(jnp.float32).reshape(-1, z.shape[-1])
    return jax.random.choice(key, flat, (num_codes,), replace=len(flat) < num_codes)


def ema_start(codebook: Array, count: float) -> dict[str, Array]:
    """The state of a codebook that follows moving averages.

    Args:
        codebook: First codes, float [K, D].
        count: Vectors of a batch that each code is taken to have been chosen by.

    Returns:
        "counts" [K] and "sums" [K, D], float32: the averages N and m of the number of
        vectors in a batch that choose each code, and of their sum.
    """
    counts = jnp.full(len(codebook), count, jnp.float32)
    return {"counts": counts, "sums": count * codebook.astype(jnp.float32)}


def ema_codebook(state: Mapping[str, Array], epsilon: float = 1e-5) -> Array:
    """The codes m / N, with Laplace smoothing of N: float32 [K, D].

    The smoothed N is total (N + epsilon) / (total + K epsilon), so that a code that
    nothing chooses does not divide by zero. The paper does not smooth; its code does.

    Reference:
        arXiv:1711.00937, Appendix A.1, Eq. 8.
    """
    counts = state["counts"]
    total = counts.sum()
    smooth = total * (counts + epsilon) / (total + len(counts) * epsilon)
    return state["sums"] / smooth[:, None]


def ema_update(
    state: Mapping[str, Array], z: Array, indices: Array, *, decay: float
) -> dict[str, Array]:
    """Moves the averages towards one batch's counts and sums.

    Args:
        state: From `ema_start`.
        z: What the encoder says, float [..., D].
        indices: Of the nearest codes, int32 [...].
        decay: Share of the old averages that stays, the paper's gamma = 0.99.

    Returns:
        The new state. No gradient flows through it.

    Reference:
        arXiv:1711.00937, Appendix A.1, Eq. 6 and 7.
    """
    flat = jax.lax.stop_gradient(z).astype(jnp.float32).reshape(-1, z.shape[-1])
    num_codes = len(state["counts"])
    new = {
        "counts": code_counts(indices, num_codes),
        "sums": jax.ops.segment_sum(flat, indices.ravel(), num_codes),
    }
    return {name: decay * state[name] + (1 - decay) * new[name] for name in new}


def restart_dead_codes(
    state: Mapping[str, Array], z: Array, key: Array, *, threshold: float
) -> dict[str, Array]:
    """Puts random encoder outputs in place of codes that hardly anything chooses.

    A restarted code gets the count that it would have if all were chosen equally often,
    so that it has time to prove itself.

    Args:
        state: From `ema_update`.
        z: What the encoder says for this batch, float [..., D].
        key: PRNG key.
        threshold: A code whose average count lies below is dead; 0 restarts none.

    Returns:
        The new state.

    Reference:
        Dhariwal et al., Jukebox, arXiv:2005.00341, Sec. 3.1.
    """
    counts = state["counts"]
    fresh = jax.lax.stop_gradient(initial_codebook(key, z, len(counts)))
    started = ema_start(fresh, even_count(z, len(counts)))
    dead = counts < threshold
    return {
        "counts": jnp.where(dead, started["counts"], counts),
        "sums": jnp.where(dead[:, None], started["sums"], state["sums"]),
    }


def even_count(z: Array, num_codes: int) -> float:
    """Vectors of a batch [..., D] per code, the count of each if all count alike."""
    return z.size / z.shape[-1] / num_codes


def code_counts(indices: Array, num_codes: int) -> Array:
    """How often each code is chosen: float32 [K]."""
    return jnp.bincount(indices.ravel(), length=num_codes).astype(jnp.float32)


def perplexity(indices: Array, num_codes: int) -> Array:
    """exp of the entropy of the codes' frequencies, a scalar from 1 to K.

    It is over all `indices` together, whatever their shape: K where every code is
    chosen equally often, 1 where one is always chosen.
    """
    counts = code_counts(indices, num_codes)
    p = counts / counts.sum()
    return jnp.exp(jax.scipy.special.entr(p).sum())


def usage(indices: Array, num_codes: int) -> Array:
    """Share of the codes that are chosen at least once, a scalar in (0, 1]."""
    return jnp.mean(code_counts(indices, num_codes) > 0)
