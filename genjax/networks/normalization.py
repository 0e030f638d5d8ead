"""Normalisation of weights by their spectral norm, and of activations by class."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array


def power_iteration(
    matrix: Array, u: Array, num_iterations: int = 1
) -> tuple[Array, Array]:
    """Estimates the largest singular value of a matrix from below.

    Args:
        matrix: Float [N, D].
        u: Guess of the right singular vector, float [D], not zero.
        num_iterations: Each multiplies the guess by matrix^T matrix.

    Returns:
        The estimate v^T matrix u, a scalar whose gradient is the outer product of the
        unit vectors v and u (they count as constants), and the new u.

    Reference:
        Miyato et al., Spectral Normalization for Generative Adversarial Networks,
        arXiv:1802.05957, App. A and Eq. 12.
    """
    fixed = jax.lax.stop_gradient(matrix)
    for _ in range(num_iterations):
        v = _unit(fixed @ u)
        u = _unit(v @ fixed)
    u, v = jax.lax.stop_gradient((u, v))
    return v @ matrix @ u, u


def operator_norm(
    fn: Callable[[Array, Array], Array],
    weight: Array,
    u: Array,
    *,
    tolerance: float = 1e-4,
    max_iterations: int = 100,
) -> tuple[Array, Array]:
    """Estimates the largest singular value of a linear map, such as a convolution.

    Power iterations by the map and its transpose, until one changes the estimate, which
    is from below, by less than `tolerance` of it.

    Args:
        fn: (weight, x) -> y, linear in both; the norm is that of x -> y for x of the
            shape of `u`.
        weight: Of the map.
        u: Guess of the right singular vector, not zero.
        tolerance: Relative.
        max_iterations: At which to stop in any case.

    Returns:
        The estimate, a scalar whose gradient is as that of `power_iteration`, and the
        new u.

    Reference:
        Gouk et al., Regularisation of Neural Networks by Enforcing Lipschitz
        Continuity, arXiv:1804.04368, who do the same for convolutions.
    """
    fixed, u = jax.lax.stop_gradient((weight, u))
    transpose = jax.linear_transpose(lambda u: fn(fixed, u), u)

    def refine(state: tuple[Array, ...]) -> tuple[Array, ...]:
        i, _, sigma, u = state
        (new,) = transpose(_unit(fn(fixed, u)))
        return i + 1, sigma, jnp.linalg.norm(new), _unit(new)

    def changes(state: tuple[Array, ...]) -> Array:
        i, old, sigma, _ = state
        return (i < max_iterations) & (jnp.abs(sigma - old) > tolerance * sigma)

    *_, u = jax.lax.while_loop(changes, refine, (0, -1.0, 0.0, _unit(u)))
    v = jax.lax.stop_gradient(_unit(fn(fixed, u)))
    return jnp.vdot(v, fn(weight, u)), u


def _unit(x: Array) -> Array:
    return x / (jnp.linalg.norm(x) + 1e-12)


class SpectralNorm(nn.Module):
    """Divides the weight of a layer by its largest singular value.

    A kernel [h, w, C, D] counts as the matrix [h w C, D], as in the authors' code; the
    convolution itself can have a larger norm. The layer keeps its place and its
    parameters; the guess u is an entry of "batch_stats", refined by one power iteration
    at each call with `train`. Biases stay as they are.

    Attributes:
        layer: Such as `layers.Conv`, `nn.Dense` or `nn.Embed`, with one weight.
        num_iterations: Power iterations in a call.

    Reference:
        Miyato et al., arXiv:1802.05957, Eq. 8 and Alg. 1.
    """

    layer: nn.Module
    num_iterations: int = 1

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Applies the normalised layer to x."""

        def divide(weight: Array) -> Array:
            if weight.ndim < 2:
                return weight
            matrix = weight.reshape(-1, weight.shape[-1])
            u = self.variable("batch_stats", "u", self.draw, matrix.shape[1:])
            sigma, new = power_iteration(matrix, u.value, self.num_iterations)
            if train and not self.is_initializing():
                u.value = new
            return weight / (sigma + 1e-12)

        return nn.map_variables(
            lambda layer: layer(x),
            trans_in_fn=lambda variables: jax.tree.map(divide, variables),
            init=self.is_initializing(),
            mutable=True,
        )(self.layer)

    def draw(self, shape: tuple[int, ...]) -> Array:
        """A random first guess."""
        return jax.random.normal(self.make_rng("params"), shape)


class BatchNorm(nn.Module):
    """Batch normalisation, with a scale and a shift for each class if there are any.

    Attributes:
        num_classes: K; None for the same scale and shift for all.
        momentum: What the running averages keep at each step.
        epsilon: Added to the variance.

    References:
        Dumoulin et al., A Learned Representation For Artistic Style, arXiv:1610.07629,
        Eq. 5, for the scale and shift by class.
        Miyato & Koyama, cGANs with Projection Discriminator, arXiv:1802.05637, for
        their use in generators.
    """

    num_classes: int | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None, *, train: bool) -> Array:
        """Maps x [B, H, W, C] and int labels [B] to [B, H, W, C].

        Running averages take the place of the batch's statistics without `train`.
        """
        by_class = self.num_classes is not None
        norm = nn.BatchNorm(
            use_running_average=not train,
            momentum=self.momentum,
            epsilon=self.epsilon,
            use_scale=not by_class,
            use_bias=not by_class,
            dtype=self.dtype,
            name="norm",
        )
        if not by_class:
            return norm(x)
        if label is None:
            raise ValueError("batch norm by class needs labels, got label=None")

        def embed(name: str, init: nn.initializers.Initializer) -> Array:
            shape = (self.num_classes, x.shape[-1])
            table = self.param(name, init, shape)
            return table[label][:, None, None].astype(x.dtype)

        scale = embed("scale", nn.initializers.ones)
        return norm(x) * scale + embed("bias", nn.initializers.zeros)
