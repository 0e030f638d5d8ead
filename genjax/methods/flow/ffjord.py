"""FFJORD: a continuous flow whose log-determinant is the integral of a trace.

Grathwohl et al., FFJORD: Free-form Continuous Dynamics for Scalable Reversible
Generative Models, arXiv:1810.01367. The kinetic energy is Finlay et al., How to Train
Your Neural ODE, arXiv:2002.02798.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from genjax.config import ConfigError, call, choose
from genjax.methods.flow._density import (
    Flow,
    as_method,
    check_halvings,
    make_flow,
    make_net,
    make_space,
)
from genjax.networks.flow_nets import Velocity
from genjax.types import Method, ModelState, Params

TRACES = ("exact", "hutchinson")
INVERSE_TOLERANCE = 1e-5  # At most, of solves that should undo each other.
SOLVERS = {"dopri5": diffrax.Dopri5, "tsit5": diffrax.Tsit5, "heun": diffrax.Heun}


def make(config: ConfigDict) -> Method:
    """One player, "flow"; config.model holds the arguments of `ffjord`."""
    return call(ffjord, config.model, config, where="config.model")


@dataclass(frozen=True)
class ContinuousFlow(Flow):
    """dx/dt = velocity(x, t) from the data at t = 0 to the latents at t = 1.

    Each example is a solve of its own, with its own steps.

    Attributes:
        solver: Of the differential equation.
        tolerance: Relative and absolute, of each step of the likelihood's solves;
            latents and samples are found to 1e-5 at least.
        max_steps: Steps after which a solve is given up, and gives NaN.
        trace: "exact" or "hutchinson".
        kinetic_energy: Factor of the integral of |dx/dt|^2 in the loss.
    """

    solver: diffrax.AbstractSolver = field(default_factory=diffrax.Dopri5)
    tolerance: float = 1e-5
    max_steps: int = 1000
    trace: str = "exact"
    kinetic_energy: float = 0.0

    def init_bijection(self, key: Array, y: Array) -> Mapping[str, Any]:
        """Parameters of the velocity; the batch does not matter."""
        return self.bijection.init(key, y, 0.0)

    def velocity(self, params: Params) -> Callable[[Array, Array], Array]:
        """(x [...], t) -> dx/dt, of one example."""
        variables = {"params": params["flow"]}
        return lambda x, t: self.bijection.apply(variables, x[None], t)[0]

    def transform(
        self,
        params: Params,
        model_state: ModelState,
        y: Array,
        key: Array,
        *,
        train: bool,
    ) -> tuple[Array, Array, Array, ModelState]:
        """Latents, the integrals of the trace and of the energy, and nothing changed.

        Hutchinson's noise is drawn once for each example, and so is one for the solve.
        """
        velocity = self.velocity(params)
        noise = jax.random.rademacher(key, y.shape, y.dtype)

        def moves(t: Array, state: tuple[Array, ...], eps: Array) -> tuple[Array, ...]:
            at_t = functools.partial(velocity, t=t)
            if self.trace == "exact":
                v, trace = at_t(state[0]), exact_trace(at_t, state[0])
            else:
                v, jacobian_eps = jax.jvp(at_t, (state[0],), (eps,))
                trace = jnp.vdot(eps, jacobian_eps)
            return v, trace, jnp.vdot(v, v)

        def one(x: Array, eps: Array) -> tuple[Array, ...]:
            state = x, jnp.zeros(()), jnp.zeros(())
            return self.solve(moves, state, eps, 0.0, 1.0, self.tolerance)

        z, log_det, energy = jax.vmap(one)(y, noise)
        return z, log_det, self.kinetic_energy * energy, {}

    def latents(self, params: Params, model_state: ModelState, y: Array) -> Array:
        """Places at t = 1 of what starts at y."""
        return self.flow_map(params, y, 0.0, 1.0)

    def inverse(self, params: Params, model_state: ModelState, z: Array) -> Array:
        """Places at t = 0 of what ends at z."""
        return self.flow_map(params, z, 1.0, 0.0)

    def flow_map(self, params: Params, x: Array, start: float, end: float) -> Array:
        """Where points x [B, ...] of one time are at another."""
        velocity = self.velocity(params)

        def moves(t: Array, x: Array, _: None) -> Array:
            return velocity(x, t)

        def one(x: Array) -> Array:
            tolerance = min(self.tolerance, INVERSE_TOLERANCE)
            return self.solve(moves, x, None, start, end, tolerance)

        return jax.vmap(one)(x)

    def solve(
        self,
        moves: Callable,
        state: Any,
        args: Any,
        start: float,
        end: float,
        tolerance: float,
    ) -> Any:
        """The state at the end of the integral of `moves`; NaN if steps ran out."""
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(moves),
            self.solver,
            t0=start,
            t1=end,
            dt0=None,
            y0=state,
            args=args,
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
            max_steps=self.max_steps,
            throw=False,
        )
        good = solution.result == diffrax.RESULTS.successful
        return jax.tree.map(lambda y: jnp.where(good, y[0], jnp.nan), solution.ys)


def ffjord(
    config: ConfigDict,
    *,
    network: Mapping[str, Any],
    num_squeezes: int = 0,
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
        network: Of the velocity: name "resnet" or "conv" for images, "mlp" for points,
            and its arguments, of which the activation should be smooth.
        num_squeezes: Of images: times that the network sees squares of 2 x 2 pixels as
            channels, so that it sees further at less cost.
        trace: Of the velocity's Jacobian: "exact", D passes for each evaluation, or
            "hutchinson", an unbiased estimate by one; by default exact for points. The
            likelihood then is exact, or an unbiased estimate.
        kinetic_energy: Factor of the integral of |dx/dt|^2 in the loss, which keeps
            solves short.
        solver: A key of `SOLVERS`, with steps as the tolerance asks.
        tolerance: Relative and absolute, of each step of the likelihood's solves;
            latents and samples are found to 1e-5 at least.
        max_steps: Steps after which a solve gives NaN, and training skips the batch.
        transform: Of images: "logit", or "centre".
        alpha: Of the logit; see `losses.dequantization.logit`.
        dequantizer: Arguments of `networks.dequantizer.Dequantizer` for learned noise;
            without, noise is uniform in each grey level's bin.
    """
    space = make_space(config, transform=transform, alpha=alpha)
    trace = trace or ("hutchinson" if space.images else "exact")
    choose(dict.fromkeys(TRACES), trace, "config.model.trace")
    make_solver = choose(SOLVERS, solver, "config.model.solver")
    if not tolerance > 0:
        raise ConfigError(f"config.model.tolerance must be above 0, got {tolerance}")
    if num_squeezes:
        check_halvings(config, num_squeezes, "config.model.num_squeezes")
    velocity = Velocity(make_net(config, space, network), num_squeezes)
    flow = make_flow(config, space, velocity, dequantizer)
    continuous = ContinuousFlow(
        space,
        velocity,
        flow.dequantizer,
        solver=make_solver(),
        tolerance=tolerance,
        max_steps=max_steps,
        trace=trace,
        kinetic_energy=kinetic_energy,
    )
    return as_method(continuous, config)


def exact_trace(fn: Callable[[Array], Array], x: Array) -> Array:
    """The trace of the Jacobian of fn at x [...], by one derivative for each entry."""
    basis = jnp.eye(x.size, dtype=x.dtype).reshape(-1, *x.shape)

    def entry(direction: Array) -> Array:
        return jnp.vdot(direction, jax.jvp(fn, (x,), (direction,))[1])

    return jax.vmap(entry)(basis).sum()
