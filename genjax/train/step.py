"""The train step, written once for every method."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from ml_collections import ConfigDict

from genjax.placement import whole
from genjax.train.state import TrainState
from genjax.types import Batch, Method, Metrics, ModelState, Params, Player


def make_train_step(
    method: Method,
    optimizers: Mapping[str, optax.GradientTransformation],
    rates: Mapping[str, optax.Schedule],
    config: ConfigDict,
) -> Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]:
    """One turn of the game: each player in order takes its `steps` updates.

    Args:
        method: Whose players play.
        optimizers: {player: optax optimiser}.
        rates: {player: learning rate as a function of updates}, for the log.
        config: `accumulate` and `ema` are read.

    Returns:
        A pure function (state, batches, key) -> (state, metrics). batches has leading
        axes [max(steps) * accumulate, B / accumulate]; key is the same at every step
        and folded with `state.step`, so a resumed run needs no stored generator.
        An update whose loss, gradient or model state is not finite is skipped: its
        weights, optimiser and model state stay, and metrics["bad"] is true.
    """

    def gradients(
        player: Player, state: TrainState, batches: Batch, key: Array
    ) -> tuple[Params, ModelState, Metrics]:
        """Mean gradient and metrics over the micro-batches [accumulate, B, ...]."""
        own = {name: state.params[name] for name in player.networks}

        def loss_fn(own, model_state, batch, key):
            # The other networks are constants here.
            params = whole({**state.params, **own})
            loss, (changed, metrics) = player.loss(
                params, statistics(model_state), batch, key, step=state.step, train=True
            )
            return loss, (statistics(changed), metrics)

        def add(carry, inputs):
            model_state, total = carry
            (loss, (changed, metrics)), grads = jax.value_and_grad(
                loss_fn, has_aux=True
            )(own, model_state, *inputs)
            carry = {**model_state, **changed}, jax.tree.map(jnp.add, total, grads)
            return carry, {"loss": loss, **metrics}

        zeros = jax.tree.map(jnp.zeros_like, own)
        keys = jax.random.split(key, config.accumulate)
        start = state.model_state, zeros
        (model_state, total), metrics = scan(add, start, (batches, keys))
        grads = jax.tree.map(lambda g: g / config.accumulate, total)
        return grads, model_state, jax.tree.map(lambda m: m.mean(0), metrics)

    def update(
        player: Player, state: TrainState, batches: Batch, key: Array
    ) -> tuple[TrainState, Metrics]:
        """Takes one gradient step on the networks that `player` owns."""
        own = {name: state.params[name] for name in player.networks}
        old = own, state.opt_state[player.name], state.model_state
        grads, model_state, metrics = gradients(player, state, batches, key)
        grad_norm = optax.tree.norm(grads)
        # The new weights are not looked at here: XLA would compute each update twice to
        # reduce it, at twice the compile time. The loop looks before it saves.
        finite = all_finite((metrics["loss"], grad_norm, model_state))

        def step(own, opt_state, _):
            updates, opt_state = optimizers[player.name].update(grads, opt_state, own)
            return optax.apply_updates(own, updates), opt_state, model_state

        own, opt_state, model_state = apply_if(finite, step, old)
        counts = optax.tree.get_all_with_path(opt_state, "count")
        metrics = {
            **metrics,
            "grad_norm": grad_norm,
            "learning_rate": jnp.asarray(rates[player.name](counts[0][1])),
            "bad": 1 - finite.astype(jnp.float32),
        }
        state = state.replace(
            params={**state.params, **own},
            opt_state={**state.opt_state, player.name: opt_state},
            model_state=model_state,
        )
        return state, metrics

    def play(
        player: Player, state: TrainState, batches: Batch, key: Array
    ) -> tuple[TrainState, Metrics]:
        """The player's updates in this step; metrics are means over them."""
        rows = player.steps * config.accumulate
        batches = jax.tree.map(
            lambda x: x[:rows].reshape(player.steps, config.accumulate, *x.shape[1:]),
            batches,
        )
        state, metrics = scan(
            lambda state, inputs: update(player, state, *inputs),
            state,
            (batches, jax.random.split(key, player.steps)),
        )
        return state, jax.tree.map(lambda m: m.mean(0), metrics)

    def train_step(
        state: TrainState, batches: Batch, key: Array
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(key, state.step)
        metrics = {}
        for i, player in enumerate(method.players):
            state, own = play(player, state, batches, jax.random.fold_in(key, i))
            metrics.update({f"{player.name}/{name}": m for name, m in own.items()})
        bad = jnp.stack([metrics.pop(f"{p.name}/bad") for p in method.players]).any()
        state = state.replace(
            step=state.step + 1,
            ema_params=average(state, config.ema, bad),
            bad_steps=jnp.where(bad, state.bad_steps + 1, 0),
            skipped=state.skipped + bad,
        )
        return state, {**metrics, "bad": bad}

    return train_step


def statistics(model_state: ModelState) -> ModelState:
    """The model state with vectors and matrices gathered; buffers of images stay split.

    The channels of a batch norm's means would otherwise split the activations' too.
    """
    return jax.tree.map(lambda x: whole(x) if x.ndim <= 2 else x, model_state)


def scan(body: Callable, carry: Any, inputs: Any) -> tuple[Any, Any]:
    """`lax.scan`, but no loop around a single turn, across which XLA is slow."""
    if jax.tree.leaves(inputs)[0].shape[0] > 1:
        return jax.lax.scan(body, carry, inputs)
    carry, outputs = body(carry, jax.tree.map(lambda x: x[0], inputs))
    return carry, jax.tree.map(lambda x: x[None], outputs)


def apply_if(condition: Array, function: Callable, old: tuple) -> tuple:
    """`function(*old)` where the condition holds, else `old`, of the same structure.

    A branch on CPUs: beside a selection XLA copies the old moments and writes the new
    ones twice. A selection elsewhere: a GPU would wait for the host to branch.
    """

    def branch():
        return jax.lax.cond(condition, function, lambda *old: old, *old)

    def selection():
        new = function(*old)
        return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)

    return jax.lax.platform_dependent(cpu=branch, default=selection)


def average(state: TrainState, ema: ConfigDict, bad: Array) -> Params:
    """The exponential moving averages after this step; a bad step leaves them.

    With `ema.warmup` the decay is min(decay, (1 + step) / (10 + step)), so that a short
    run is not an average of its initial weights.
    """
    decay = jnp.float32(ema.decay)
    if ema.warmup:
        decay = jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
    rate = jnp.where(bad, 0.0, 1 - decay)
    new = {name: state.params[name] for name in state.ema_params}
    return optax.incremental_update(new, state.ema_params, rate)


def all_finite(tree: object) -> Array:
    """Whether no number in the tree is NaN or infinite, as a bool scalar."""
    return jnp.stack(
        [
            jnp.isfinite(x).all()
            for x in jax.tree.leaves(tree)
            if jnp.issubdtype(x.dtype, jnp.inexact)
        ]
    ).all()
