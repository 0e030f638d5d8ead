"""Transformers over the values of an image, and their steps, from a config."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from genjax.config import ConfigError, call, check_count, choose, compute_dtype
from genjax.methods.autoregressive._pixels import Head, StepsFn
from genjax.networks.transformer import PATTERNS, Pattern, Transformer
from genjax.samplers.autoregressive import Steps, copies, per_image


def make_network(
    config: ConfigDict, network: Mapping[str, Any], head: Head, where: str
) -> Transformer:
    """The transformer that a config describes, with what follows from head and dtype.

    Args:
        config: Resolved.
        network: features, num_blocks, num_heads, qk_features, mlp_features and dropout
            of `networks.transformer.Transformer`; pattern, the arguments of
            `make_pattern`.
        head: The distribution of a pixel.
        where: Place of `network` in the config.

    Raises:
        ConfigError: For unknown fields, or numbers that do not fit each other.
    """
    (height, width, channels), parts = head.shape, head.parts
    fields = dict(network)
    pattern_fn = functools.partial(make_pattern, (height, width * parts), where)
    pattern = call(pattern_fn, fields.pop("pattern", {}), where=f"{where}.pattern")
    follows = dict(
        shape=(height, width, parts),
        num_outputs=head.num_outputs // parts,
        num_inputs=channels // parts,
        # Levels of a mixture are so many that numbers say more.
        num_levels=None if head.num_mixtures else head.num_levels,
        dtype=jnp.dtype(compute_dtype(config)),
    )
    if given := [name for name in follows if name in fields]:
        raise ConfigError(f"{where} must leave {given[0]!r} out: it follows elsewhere")
    fields = {**fields, **follows, "pattern": pattern}
    module = call(Transformer, fields, where=where)
    check_numbers(module, where)
    return module


def check_numbers(module: Transformer, where: str) -> None:
    """Raises ConfigError unless the sizes are whole numbers that heads divide."""
    for field in ("features", "num_blocks", "num_heads"):
        check_count(f"{where}.{field}", getattr(module, field))
    for field in ("qk_features", "mlp_features"):
        if getattr(module, field) is not None:
            check_count(f"{where}.{field}", getattr(module, field))
    for field in ("features", "qk_features"):
        size = getattr(module, field) or module.features
        if size % module.num_heads:
            raise ConfigError(
                f"{where}.{field} must be a multiple of num_heads={module.num_heads}, "
                f"got {size}"
            )
    if not 0 <= module.dropout < 1:
        raise ConfigError(f"{where}.dropout must lie in [0, 1), got {module.dropout}")


def make_pattern(
    shape: tuple[int, int],
    where: str,
    *,
    name: str = "full",
    stride: int | None = None,
    summary: int = 1,
) -> Pattern:
    """Which positions attend to which.

    Args:
        shape: Rows, and positions in a row.
        where: Place of the network in the config.
        name: "full", "local", "strided" or "fixed"; see `networks.transformer.Pattern`.
        stride: Its l, which divides the length; None is a row. "full" has none.
        summary: Its c, of "fixed".
    """
    where, length = f"{where}.pattern", math.prod(shape)
    choose(dict.fromkeys(PATTERNS), name, f"{where}.name")
    if name == "full":
        return Pattern()
    stride = shape[1] if stride is None else stride
    check_count(f"{where}.stride", stride)
    check_count(f"{where}.summary", summary)
    if length % stride:
        divisors = [n for n in range(1, length + 1) if length % n == 0]
        near = min(divisors, key=lambda n: abs(math.log(n / stride)))
        raise ConfigError(
            f"{where}.stride must divide the {length} values of an image, got "
            f"{stride}; the nearest that does is {near}"
        )
    if summary > stride:
        raise ConfigError(f"{where}.summary must be at most {stride}, got {summary}")
    return Pattern(name, stride, summary)


def cached_steps(module: Transformer, head: Head) -> StepsFn:
    """The sampler's steps, which keep the keys and values of all positions before."""

    def steps_fn(params: Any, num: int, label: None, keys: Array) -> Steps:
        def step_fn(own, position, last):
            value = head.floats(last)
            return module.apply(
                {"params": params}, own, position.column, value, method="step"
            )

        return per_image(copies(module.start(), num), step_fn)

    return steps_fn
