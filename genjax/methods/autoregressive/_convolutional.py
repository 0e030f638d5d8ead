"""Networks that draw pixel by pixel from cached rows, as the sampler sees them."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from genjax.config import ConfigError, check_arguments, check_count, compute_dtype
from genjax.methods.autoregressive._pixels import Head, StepsFn
from genjax.networks.gated_pixelcnn import GatedPixelCNN
from genjax.samplers.autoregressive import Position, Steps


def make_network(
    config: ConfigDict,
    kind: type[nn.Module],
    network: Mapping[str, Any],
    head: Head,
    where: str = "config.model.network",
    **follows: Any,
) -> nn.Module:
    """The network that a config describes, with what follows from head and dtype.

    Args:
        config: Resolved.
        kind: Of network.
        network: Its fields.
        head: The distribution of a pixel.
        where: Place of `network` in the config.
        **follows: Further fields that are not the config's business.

    Raises:
        ConfigError: For unknown fields or numbers below 1.
    """
    defaults = dict(
        in_features=head.shape[-1],
        num_outputs=head.num_outputs,
        dtype=jnp.dtype(compute_dtype(config)),
    )
    follows = {**defaults, **follows}
    for field in network:
        if field in follows:
            raise ConfigError(f"{where} must leave {field!r} out: it follows elsewhere")
    fields = {**network, **follows}
    check_arguments(kind, fields, where=where)
    for field, value in network.items():
        if field != "dropout":
            check_count(f"{where}.{field}", value)
    return kind(**fields)


def check_kernels(module: GatedPixelCNN, where: str = "config.model.network") -> None:
    """Raises ConfigError unless its kernels have a middle, and more than that."""
    for field in ("kernel_size", "first_kernel_size"):
        size = getattr(module, field)
        if size < 3 or size % 2 == 0:
            raise ConfigError(f"{where}.{field} must be odd and at least 3, got {size}")


def cached_steps(module: nn.Module, head: Head) -> StepsFn:
    """The incremental steps of a network with `start`, `row` and `step`.

    Args:
        module: As `networks.pixelcnn.PixelCNN`.
        head: The distribution of a pixel.
    """

    def steps_fn(params: Any, num: int, label: Array | None, keys: Array) -> Steps:
        def run(cache, *args, method):
            variables = {"params": params, "cache": cache}
            outputs, changed = module.apply(
                variables, *args, method=method, mutable=["cache"]
            )
            return outputs, changed["cache"]

        def row_fn(cache: Any, row: Array, above: Array) -> Any:
            return run(cache, head.floats(above), label, row, method="row")[1]

        def step_fn(cache: Any, position: Position, last: Array) -> tuple[Array, Any]:
            outputs, cache = run(cache, head.floats(last), position, method="step")
            return outputs.reshape(num, head.parts, -1)[:, position.part], cache

        return Steps(run({}, num, head.shape, method="start")[1], step_fn, row_fn)

    return steps_fn
