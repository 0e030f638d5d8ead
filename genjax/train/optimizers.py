"""Optax optimisers from the config."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import optax

from genjax.config import ConfigError, call, choose, is_number, shown

OPTIMIZERS = {
    "adam": optax.adam,
    "adamw": optax.adamw,
    "rmsprop": optax.rmsprop,
    "sgd": optax.sgd,
}


def learning_rate_schedule(
    learning_rate: float,
    schedule: str = "constant",
    warmup_steps: int = 0,
    decay_steps: int = 0,
    end_value: float = 0.0,
) -> optax.Schedule:
    """A rise from 0 over `warmup_steps` updates, then constant, cosine or linear.

    Args:
        learning_rate: The value after the warm-up.
        schedule: "constant", "cosine" or "linear".
        warmup_steps: Updates from 0 to `learning_rate`.
        decay_steps: Updates, warm-up included, until `end_value` is reached.
        end_value: Where cosine and linear end.
    """
    main = {
        "constant": lambda n: optax.constant_schedule(learning_rate),
        "cosine": lambda n: optax.cosine_decay_schedule(
            learning_rate, n, end_value / learning_rate if learning_rate else 0.0
        ),
        "linear": lambda n: optax.linear_schedule(learning_rate, end_value, n),
    }
    make = choose(main, schedule, "config.optimizers.<player>.schedule")
    if schedule != "constant" and decay_steps <= warmup_steps:
        raise ConfigError(
            f"schedule {schedule!r} needs decay_steps above warmup_steps="
            f"{warmup_steps}, got {decay_steps}"
        )
    if not warmup_steps:
        return make(decay_steps)
    warmup = optax.linear_schedule(0.0, learning_rate, warmup_steps)
    return optax.join_schedules(
        [warmup, make(decay_steps - warmup_steps)], [warmup_steps]
    )


def make(
    num_updates: int,
    *,
    name: str,
    learning_rate: float,
    schedule: str = "constant",
    warmup_steps: int = 0,
    decay_steps: int | None = None,
    end_value: float = 0.0,
    clip_norm: float | None = None,
    clip_weights: float | None = None,
    **kwargs: Any,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimiser of one player, and its learning rate as a function of updates.

    Args:
        num_updates: Updates the player will make; where a schedule ends by default.
        name: "adam", "adamw", "sgd" or "rmsprop".
        learning_rate: See `learning_rate_schedule`, as for the next four.
        schedule: Its shape.
        warmup_steps: Its rise.
        decay_steps: Its end; None is `num_updates`.
        end_value: Its last value.
        clip_norm: Gradients with a larger global norm are scaled down to it.
        clip_weights: Weights are held in [-clip_weights, clip_weights] after each
            update, as WGAN's critic needs.
        **kwargs: For the optax function, such as b1, b2, eps, weight_decay, momentum.

    Raises:
        ConfigError: For an unknown name, or a number out of range.
    """
    numbers = dict(learning_rate=learning_rate, end_value=end_value)
    numbers.update(warmup_steps=warmup_steps, clip_norm=clip_norm or 0)
    numbers.update(clip_weights=clip_weights or 0)
    for field, value in numbers.items():
        if not is_number(value) or value < 0:
            raise ConfigError(
                f"config.optimizers.<player>.{field} must be a number from 0 on, "
                f"got {shown(value)}"
            )
    for field, value in {
        "warmup_steps": warmup_steps,
        "decay_steps": decay_steps,
    }.items():
        if not (isinstance(value, int) or (value is None and field == "decay_steps")):
            raise ConfigError(
                f"config.optimizers.<player>.{field} must be a whole number, "
                f"got {shown(value)}"
            )
    factory = choose(OPTIMIZERS, name, "config.optimizers.<player>.name")
    rate = learning_rate_schedule(
        learning_rate,
        schedule,
        warmup_steps,
        num_updates if decay_steps is None else decay_steps,
        end_value,
    )
    own = [p for p in inspect.signature(make).parameters if p != "num_updates"]
    where = f"config.optimizers.<player> ({name!r})"
    tx = call(factory, kwargs, rate, where=where, beside=own[:-1])
    if clip_norm is not None:
        tx = optax.chain(optax.clip_by_global_norm(clip_norm), tx)
    if clip_weights is not None:
        tx = optax.chain(tx, hold_weights(clip_weights))
    return tx, rate


def hold_weights(bound: float) -> optax.GradientTransformation:
    """Shortens updates so that each weight ends in [-bound, bound].

    Reference: Arjovsky et al., Wasserstein GAN, arXiv:1701.07875, Alg. 1.
    """
    return optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda u, p: jnp.clip(p + u, -bound, bound) - p, updates, params
        )
    )
