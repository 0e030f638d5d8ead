"""The steps of flow of Glow.

Kingma & Dhariwal, arXiv:1807.03039. They are bijections as `networks.flow` has them.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from genjax.networks.flow import ActNorm, Chain, Coupling, Repeated

HIGHEST = jax.lax.Precision.HIGHEST  # An inverse from bfloat16 products is none.


class InvertibleConv(nn.Module):
    """A 1 x 1 convolution by W = P L (U + diag(s)), which starts as a random rotation.

    P and the signs of s stay as they are ("constants"); L has a unit diagonal, so
    log |det| is the number of places times sum log |s|.

    Reference: Kingma & Dhariwal, arXiv:1807.03039, Sec. 3.2, Eqs. 10-11.
    """

    def forward(self, x: Array, *, train: bool = False) -> tuple[Array, Array]:
        """x [B, ..., C] -> (y = W x at each place, log_det [B])."""
        permutation, lower, upper, log_s = self.factors(x.shape[-1])
        w = permutation @ jnp.matmul(lower, upper, precision=HIGHEST)
        places = math.prod(x.shape[1:-1])
        log_det = jnp.broadcast_to(places * log_s.sum(), x.shape[:1])
        return jnp.matmul(x, w.T, precision=HIGHEST), log_det

    def inverse(self, y: Array) -> Array:
        """y -> x."""
        permutation, lower, upper, _ = self.factors(y.shape[-1])
        solve = jax.scipy.linalg.solve_triangular
        w = solve(lower, permutation.T, lower=True, unit_diagonal=True)
        return jnp.matmul(y, solve(upper, w).T, precision=HIGHEST)

    @nn.compact
    def factors(self, channels: int) -> tuple[Array, Array, Array, Array]:
        """P, L and U + diag(s), [C, C], and log |s|, [C]."""

        p = lower = upper = jnp.eye(channels)
        if self.is_initializing():
            noise = jax.random.normal(self.make_rng("params"), p.shape)
            p, lower, upper = jax.scipy.linalg.lu(jnp.linalg.qr(noise)[0])
        s = jnp.diag(upper)
        p = self.variable("constants", "permutation", lambda: p).value
        sign = self.variable("constants", "sign", lambda: jnp.sign(s)).value
        lower = self.param("lower", lambda _, start: start, lower)
        upper = self.param("upper", lambda _, start: start, upper)
        log_s = self.param("log_s", lambda _: jnp.log(jnp.abs(s)))
        lower = jnp.tril(lower, -1) + jnp.eye(channels)
        upper = jnp.triu(upper, 1) + jnp.diag(sign * jnp.exp(log_s))
        return p, lower, upper, log_s


def glow_steps(net: nn.Module, num_steps: int, scale: str = "sigmoid") -> Repeated:
    """Actnorm, an invertible 1 x 1 convolution and an affine coupling, many times.

    Args:
        net: Of the couplings.
        num_steps: K.
        scale: See `networks.flow.Coupling`.

    Reference: Kingma & Dhariwal, arXiv:1807.03039, Fig. 2a.
    """
    step = Chain((ActNorm(), InvertibleConv(), Coupling(net, scale=scale)))
    return Repeated(step, num_steps)
