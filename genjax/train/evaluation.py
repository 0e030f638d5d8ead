"""What a method can say of a split: its players' losses and its likelihood."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from genjax import data
from genjax.config import ConfigError
from genjax.train.sharding import replicated, split, to_global
from genjax.types import Method, ModelState, Params


def make_losses(method: Method, mesh: Mesh) -> Callable[..., dict[str, Array]]:
    """Compiles every player's loss and metrics, without training.

    Returns:
        losses(params, model_state, batch, key) -> {"player/metric": mean over batch}.
    """

    def losses(params, model_state, batch, key):
        metrics = {}
        for i, player in enumerate(method.players):
            loss, (_, own) = player.loss(
                params,
                model_state,
                batch,
                jax.random.fold_in(key, i),
                step=0,
                train=False,
            )
            own = {"loss": loss, **own}
            metrics.update(
                {f"{player.name}/{name}": value for name, value in own.items()}
            )
        return metrics

    return jax.jit(losses, out_shardings=replicated(mesh))


def make_likelihood(method: Method, mesh: Mesh) -> Callable[..., dict[str, Array]]:
    """Compiles the likelihood and its parts.

    Returns:
        likelihood(params, model_state, batch, key) -> {"nats/nll", "nats/<part>": [B]}.
    """

    def likelihood(params, model_state, batch, key):
        nats, parts = method.log_likelihood(params, model_state, key, batch)
        return {"nats/nll": -nats, **{f"nats/{k}": v for k, v in parts.items()}}

    return jax.jit(likelihood, out_shardings=replicated(mesh))


def measures(method: Method, mesh: Mesh) -> list[Callable[..., dict[str, Array]]]:
    """Everything that can be measured of the method on a split."""
    losses = [make_losses(method, mesh)] if method.players else []
    likelihood = [make_likelihood(method, mesh)] if method.log_likelihood else []
    return losses + likelihood


def over_split(
    fn: Callable[..., Mapping[str, Array]],
    params: Params,
    model_state: ModelState,
    source: Sequence[Mapping[str, Any]],
    *,
    mesh: Mesh,
    batch_size: int,
    num_examples: int,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Means of fn's values over the first `num_examples` of a split, in its order.

    Every process reads the same batches and each device works on its share. Batch b
    uses the key fold_in(key(seed), b), so two calls with one seed see equal noise.

    Returns:
        {name: {"value": mean, "standard_error": of that mean, "examples": count}}. A
        value that fn gives per batch counts as often as the batch has examples, and its
        standard error is that between batches. Up to one example less than there are
        devices is left out at the end.

    Raises:
        ConfigError: If there are fewer examples than devices.
    """
    num = min(num_examples, len(source))
    check_size(num, mesh)
    batch_size = -(-batch_size // mesh.size) * mesh.size
    key = jax.random.key(seed)
    values, weights = defaultdict(list), defaultdict(list)
    batches = data.batches(
        source, batch_size=batch_size, shuffle=False, repeat=False, num_threads=0
    )
    for b in range(-(-num // batch_size)):
        batch = next(batches)
        rows = min(len(batch.pop("index")), num - b * batch_size)
        rows = rows // mesh.size * mesh.size
        if not rows:
            break
        share = slice(
            rows * jax.process_index() // jax.process_count(),
            rows * (jax.process_index() + 1) // jax.process_count(),
        )
        batch = to_global({k: v[share] for k, v in batch.items()}, split(mesh, 0))
        result = fn(params, model_state, batch, jax.random.fold_in(key, b))
        for name, value in jax.device_get(result).items():
            values[name] += list(np.atleast_1d(value).astype(np.float64))
            weights[name] += [1.0] * rows if np.ndim(value) else [float(rows)]
    return {name: summary(values[name], weights[name]) for name in values}


def check_size(num_examples: int, mesh: Mesh) -> None:
    """Raises ConfigError unless each device gets an example to measure on."""
    if num_examples < mesh.size:
        raise ConfigError(
            f"an evaluation needs an example for each of the {mesh.size} devices, got "
            f"{num_examples} (config.eval_examples, --num or the size of the split)"
        )


def summary(values: Sequence[float], weights: Sequence[float]) -> dict[str, float]:
    """Weighted mean and the standard error of it."""
    x, w = np.asarray(values), np.asarray(weights)
    share = w / w.sum()
    mean = share @ x
    n = len(x)
    variance = share @ np.square(x - mean) * n / max(n - 1, 1)
    return {
        "value": float(mean),
        "standard_error": float(np.sqrt(variance / n)) if n > 1 else float("nan"),
        "examples": int(w.sum()),
    }
