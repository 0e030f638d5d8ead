"""Everything that training changes, in one tree."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.training import train_state
from jax import Array
from jax.tree_util import keystr, tree_flatten_with_path, tree_unflatten

from genjax.config import ConfigError, shown
from genjax.types import Batch, Method, ModelState, Params


class TrainState(train_state.TrainState):
    """Flax's TrainState for a game of players.

    Attributes:
        step: Train steps taken, skipped ones included, so that it tells the data
            position and the random keys. int32 scalar.
        params: {network: tree}.
        opt_state: {player: optax state}.
        model_state: {name: tree}.
        ema_params: {network: tree}, for the networks that config.ema names.
        bad_steps: Steps in a row, up to now, that were not finite. int32 scalar.
        skipped: Such steps in all. int32 scalar.
    """

    model_state: ModelState
    ema_params: Params
    bad_steps: Array
    skipped: Array


def create(
    method: Method,
    optimizers: Mapping[str, optax.GradientTransformation],
    ema_networks: tuple[str, ...],
    key: Array,
    batch: Batch,
) -> TrainState:
    """A fresh state; the averages start at the weights."""
    params, model_state = method.init(key, batch)
    return TrainState(
        apply_fn=None,
        tx=None,
        step=jnp.int32(0),
        params=dict(params),
        opt_state={
            player.name: optimizers[player.name].init(
                {name: params[name] for name in player.networks}
            )
            for player in method.players
        },
        model_state=dict(model_state),
        # A copy: one buffer must not be donated twice.
        ema_params={
            name: jax.tree.map(jnp.copy, params[name]) for name in ema_networks
        },
        bad_steps=jnp.int32(0),
        skipped=jnp.int32(0),
    )


def check_names(method: Method, config: Any) -> None:
    """Holds optimisers and averages to the method's players and networks.

    Raises:
        ConfigError: With what was expected and what the config has.
    """
    players = sorted(player.name for player in method.players)
    if sorted(config.optimizers) != players:
        raise ConfigError(
            f"config.optimizers must name each player of {config.method!r}: "
            f"expected {players}, got {shown(sorted(config.optimizers))}"
        )
    owned = [name for player in method.players for name in player.networks]
    if len(owned) != len(set(owned)):
        raise ConfigError(f"a network of {config.method!r} has two owners: {owned}")
    if unknown := sorted(set(config.ema.networks) - set(owned)):
        raise ConfigError(
            f"config.ema.networks names {shown(unknown)}, but the trained networks of "
            f"{config.method!r} are {sorted(owned)}"
        )


def carry_over(
    target: Any, source: Any, rename: Mapping[str, str] | None = None
) -> tuple[Any, list[str], list[str]]:
    """Copies the leaves of `source` into `target` where path and shape match.

    Args:
        target: A tree whose top-level keys are networks or entries of model_state.
        source: A trained tree of the same kind.
        rename: {target network: source network}; both may appear more than once, as in
            {"denoiser": "denoiser", "control": "denoiser"}. None pairs equal names.

    Returns:
        The new tree (of `target`'s structure, dtypes and shardings), the paths that
        were copied, and those that kept their value.
    """
    if rename is None:
        rename = {name: name for name in target}
    leaves, _ = tree_flatten_with_path(source)
    available = {keystr(path): leaf for path, leaf in leaves}
    copied, kept, new = [], [], []
    leaves, structure = tree_flatten_with_path(target)
    for path, leaf in leaves:
        name = path[0].key
        origin = f"[{rename[name]!r}]{keystr(path[1:])}" if name in rename else None
        value = available.get(origin)
        if value is not None and value.shape == leaf.shape:
            # A copy, because the source may live on and this leaf will be donated.
            value = jnp.array(value, leaf.dtype, copy=True)
            new.append(jax.device_put(value, leaf.sharding))
            copied.append(keystr(path))
        else:
            new.append(leaf)
            kept.append(keystr(path))
    return tree_unflatten(structure, new), copied, kept
