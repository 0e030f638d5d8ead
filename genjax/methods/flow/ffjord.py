"""FFJORD: a continuous flow whose log-determinant is the integral of a trace.

Grathwohl et al., FFJORD: Free-form Continuous Dynamics for Scalable Reversible
Generative Models, arXiv:1810.01367. The kinetic energy is Finlay et al., How to Train
Your Neural ODE, arXiv:2002.02798.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import diffrax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from genjax.config import ConfigError, call, choose
from genjax.methods.flow._density import (
    as_method,
    check_blocks,
    make_flow,
    make_net,
    make_space,
)
from genjax.networks.flow import ActNorm, Chain, FactorOut, Squeezed, sum_dims
from genjax.networks.flow_nets import Velocity
from genjax.types import Method

TRACES = ("exact", "hutchinson")
INVERSE_TOLERANCE = 1e-6  # At most, of solves that should undo each other.
SOLVERS = {"dopri5": diffrax.Dopri5, "tsit5": diffrax.Tsit5, "heun": diffrax.Heun}


def make(config: ConfigDict) -> Method:
    """One player, "flow"; config.model holds the arguments of `ffjord`."""
    return call(ffjord, config.model, config, where="config.model")


class Continuous(nn.Module):
    """The bijection that follows dx/dt = net(x, t) from t = 0 to t = 1.

    Where the log-determinant is wanted, a batch is one solve, whose steps keep every
    example within the tolerance: weights then have one gradient, not one an example.
    Else, where `apply` is given no key named "log_det", it is NaN, and each example is
    a solve of its own, to `INVERSE_TOLERANCE` at least. The integral of the velocity's
    square is sown into "penalties".

    Attributes:
        net: (x [B, ...], t) -> dx/dt.
        solver: A key of `SOLVERS`.
        tolerance: Relative and absolute, of each step.
        max_steps: Steps after which a solve is given up, and gives NaN.
        trace: "exact" or "hutchinson", whose noise is one for each solve.
        kinetic_energy: Factor of that integral.
    """

    net: Velocity
    solver: str = "dopri5"
    tolerance: float = 1e-5
    max_steps: int = 1000
    trace: str = "exact"
    kinetic_energy: float = 0.0

    def forward(self, x: Array, *, train: bool = False) -> tuple[Array, Array]:
        """x [B, ...] -> (y of the same shape, log_det [B])."""
        if self.is_initializing():
            self.net(x, 0.0)
            return x, jnp.zeros(len(x))
        if not self.has_rng("log_det"):
            return self.follow(x, 0.0, 1.0), jnp.full(len(x), jnp.nan)
        noise = jax.random.rademacher(self.make_rng("log_det"), x.shape, x.dtype)
        net, variables = self.net.unbind()

        def moves(t: Array, state: tuple[Array, ...], eps: Array) -> tuple[Array, ...]:
            at_t = functools.partial(net.apply, variables, t=t)
            if self.trace == "exact":
                v, trace = at_t(state[0]), exact_trace(at_t, state[0])
            else:
                v, jacobian_eps = jax.jvp(at_t, (state[0],), (eps,))
                trace = sum_dims(eps * jacobian_eps)
            return v, trace, sum_dims(v * v)

        state = x, jnp.zeros(len(x)), jnp.zeros(len(x))
        control = diffrax.PIDController(
            rtol=self.tolerance, atol=self.tolerance, norm=worst_norm
        )
        y, log_det, energy = self.solve(moves, state, noise, 0.0, 1.0, control)
        self.sow("penalties", "kinetic_energy", self.kinetic_energy * energy)
        return y, log_det

    def inverse(self, y: Array) -> Array:
        """y -> x."""
        return self.follow(y, 1.0, 0.0)

    def follow(self, x: Array, start: float, end: float) -> Array:
        """Where points x [B, ...] of one time are at another."""
        net, variables = self.net.unbind()
        tolerance = min(self.tolerance, INVERSE_TOLERANCE)
        control = diffrax.PIDController(rtol=tolerance, atol=tolerance)

        def moves(t: Array, x: Array, _: None) -> Array:
            return net.apply(variables, x[None], t)[0]

        return jax.vmap(lambda x: self.solve(moves, x, None, start, end, control))(x)

    def solve(
        self,
        moves: Callable,
        state: Any,
        args: Any,
        start: float,
        end: float,
        control: diffrax.PIDController,
    ) -> Any:
        """The state at the end of the integral of `moves`; NaN if steps ran out."""
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(moves),
            SOLVERS[self.solver](),
            t0=start,
            t1=end,
            dt0=None,
            y0=state,
            args=args,
            stepsize_controller=control,
            max_steps=self.max_steps,
            throw=False,
        )
        good = solution.result == diffrax.RESULTS.successful
        return jax.tree.map(lambda y: jnp.where(good, y[0], jnp.nan), solution.ys)


def ffjord(
    config: ConfigDict,
    *,
    network: Mapping[str, Any],
    num_blocks: Sequence[int] = (1,),
    trace: str = "",
    kinetic_energy: float = 0.0,
    solver: str = "dopri5",
    tolerance: float = 1e-5,
    max_steps: int = 1000,
    transform: str = "logit",
    alpha: float = 0.05,
    dequantizer: Mapping[str, Any] | None = None,
) -> Method:
    """FFJORD on images or points.

    Args:
        config: Resolved.
        network: Of each velocity: name "plain", "conv" or "resnet" for images, "mlp"
            for points, and its arguments; the activation, the paper's softplus by
            default, should be smooth.
        num_blocks: Solves at each level, after actnorm for images. All levels but the
            last then halve the sides, by moving squares of pixels to channels, and, if
            they have solves, solve as often again and leave half of the dimensions as
            they are from there on. Points have one level.
        trace: Of the velocity's Jacobian: "exact", D passes for each evaluation, or
            "hutchinson", an unbiased estimate by one; by default exact for points. The
            likelihood then is exact, or an unbiased estimate.
        kinetic_energy: Factor of the integral of |dx/dt|^2 in the loss, which keeps
            solves short.
        solver: A key of `SOLVERS`, with steps as the tolerance asks.
        tolerance: Relative and absolute, of each step of the likelihood's solves;
            latents and samples are found to 1e-6 at least.
        max_steps: Steps after which a solve gives NaN, and training skips the batch.
        transform: Of images: "logit", or "centre".
        alpha: Of the logit; see `losses.dequantization.logit`.
        dequantizer: Arguments of `networks.dequantizer.Dequantizer` for learned noise;
            without, noise is uniform in each grey level's bin.
    """
    space = make_space(config, transform=transform, alpha=alpha)
    trace = trace or ("hutchinson" if space.images else "exact")
    choose(dict.fromkeys(TRACES), trace, "config.model.trace")
    choose(SOLVERS, solver, "config.model.solver")
    if not tolerance > 0:
        raise ConfigError(f"config.model.tolerance must be above 0, got {tolerance}")
    check_blocks(num_blocks, space, config)
    net = make_net(config, space, {"activation": "softplus", **network})

    options = solver, tolerance, max_steps, trace, kinetic_energy

    def solves(count: int) -> list[nn.Module]:
        return [Continuous(Velocity(net.copy()), *options) for _ in range(count)]

    def level(index: int) -> Chain:
        count = num_blocks[index]
        # Logits are far from standard normal, and the way there by solves is long.
        norm = [ActNorm()] if space.images and count else []
        if index == len(num_blocks) - 1:
            return Chain([*norm, *solves(count)])
        inner: nn.Module = level(index + 1)
        if count:
            inner = Chain([*solves(count), FactorOut(inner)])
        return Chain([*norm, *solves(count), Squeezed(inner)])

    return as_method(make_flow(config, space, level(0), dequantizer), config)


def exact_trace(fn: Callable[[Array], Array], x: Array) -> Array:
    """Traces [B] of the Jacobians of fn at x [B, ...], by a derivative for each entry.

    fn must treat examples apart.
    """
    basis = jnp.eye(x[0].size, dtype=x.dtype).reshape(-1, *x.shape[1:])

    def entry(direction: Array) -> Array:
        direction = jnp.broadcast_to(direction, x.shape)
        return sum_dims(direction * jax.jvp(fn, (x,), (direction,))[1])

    return jax.vmap(entry)(basis).sum(axis=0)


def worst_norm(tree: Any) -> Array:
    """The largest root mean square of an example's entries: leaves [B, ...] -> []."""
    flat = [x.reshape(len(x), -1) for x in jax.tree.leaves(tree)]
    # Steps are chosen, not learned; and a root has no gradient at zero.
    flat = jax.lax.stop_gradient(jnp.concatenate(flat, axis=1))
    return jnp.sqrt(jnp.square(flat).mean(axis=1).max())
