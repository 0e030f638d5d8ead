"""The steps of flow of Glow.

Kingma & Dhariwal, arXiv:1807.03039. They are bijections as `networks.flow` has them.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from genjax.networks.flow import ActNorm, Chain, Coupling

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


class GlowStep(nn.Module):
    """Actnorm, an invertible 1 x 1 convolution and an affine coupling of channels.

    Attributes:
        net: Of the coupling.
        scale: See `Coupling`.

    Reference: Kingma & Dhariwal, arXiv:1807.03039, Fig. 2a.
    """

    net: nn.Module
    scale: str = "sigmoid"

    def setup(self) -> None:
        """The three parts."""
        coupling = Coupling(self.net, scale=self.scale)
        self.chain = Chain((ActNorm(), InvertibleConv(), coupling))

    def forward(self, x: Array, _: None = None) -> tuple[Array, Array]:
        """x [B, H, W, C] -> (y of the same shape, log_det [B])."""
        return self.chain.forward(x)

    def inverse(self, y: Array, _: None = None) -> tuple[Array, None]:
        """(x, nothing more), as a scan has it."""
        return self.chain.inverse(y), None


class GlowSteps(nn.Module):
    """Many steps of one shape, of which one is compiled.

    Attributes:
        net: Of the couplings.
        num_steps: K.
        scale: See `Coupling`.
    """

    net: nn.Module
    num_steps: int
    scale: str = "sigmoid"

    def setup(self) -> None:
        """One step, to be scanned from the first to the last, and back."""
        options = dict(
            variable_axes={"params": 0, "constants": 0},
            split_rngs={"params": True},
            length=self.num_steps,
        )
        methods = dict(forward=options, inverse={**options, "reverse": True})
        steps = nn.scan(GlowStep, methods=methods)
        self.steps = steps(self.net, self.scale)

    def forward(self, x: Array, *, train: bool = False) -> tuple[Array, Array]:
        """x [B, H, W, C] -> (y of the same shape, log_det [B])."""
        y, log_dets = self.steps.forward(x, None)
        return y, log_dets.sum(axis=0)

    def inverse(self, y: Array) -> Array:
        """y -> x."""
        return self.steps.inverse(y, None)[0]
