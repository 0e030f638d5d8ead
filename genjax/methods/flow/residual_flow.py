"""Residual Flow: residual blocks kept invertible, and an unbiased log-determinant.

Chen et al., Residual Flows for Invertible Generative Modeling, arXiv:1906.02735, on
Behrmann et al., Invertible Residual Networks, arXiv:1811.00995.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
from jax import Array
from ml_collections import ConfigDict

from genjax.config import ConfigError, call, check_count, choose, compute_dtype
from genjax.losses.log_det import exact_log_det, roulette_log_det
from genjax.methods.flow._density import (
    as_method,
    check_blocks,
    check_counts,
    make_flow,
    make_space,
)
from genjax.networks.flow import ActNorm, Chain, FactorOut, Repeated, Squeezed
from genjax.networks.residual import Contraction, Flattened, Residual
from genjax.types import Method

LOG_DETS = ("exact", "roulette")


def make(config: ConfigDict) -> Method:
    """One player, "flow"; config.model holds the arguments of `residual_flow`."""
    return call(residual_flow, config.model, config, where="config.model")


def residual_flow(
    config: ConfigDict,
    *,
    features: Sequence[int],
    num_blocks: Sequence[int],
    kernel_sizes: Sequence[int] = (3, 1, 3),
    dense_features: Sequence[int] = (128, 128),
    num_dense_blocks: int = 0,
    factor_out: bool = False,
    coeff: float = 0.98,
    log_det: str = "",
    num_exact: int = 2,
    num_exact_eval: int = 20,
    p: float = 0.5,
    transform: str = "logit",
    alpha: float = 0.05,
    dequantizer: Mapping[str, Any] | None = None,
) -> Method:
    """Residual Flow on images or points.

    Where the log-determinant is estimated, so is the likelihood: without bias in nats,
    and so for images an unbiased estimate of the bound. Actnorm stands before each
    block and after the last. In departure from the authors' code, the first block too
    begins with LipSwish, and n is geometric on images too, not Poisson.

    Args:
        config: Resolved; its dtype must be float32, as rounding is no contraction.
        features: Widths of each block's hidden layers.
        num_blocks: At each level; the sides of images are halved between levels, by
            moving squares of pixels to channels. Points have one level.
        kernel_sizes: Odd sides of a block's convolutions of images, one more than there
            are widths.
        dense_features: Widths in blocks of dense layers, which see whole images.
        num_dense_blocks: Of images: how many of these come after the last level.
        factor_out: Whether half of the dimensions are left alone from each level on.
        coeff: Below 1, the largest norm of a layer; see `networks.residual`.
        log_det: "exact", from the Jacobian, or "roulette"; by default exact for points.
        num_exact: Of the roulette; see `losses.log_det.roulette_log_det`.
        num_exact_eval: The same outside of training.
        p: Of the roulette.
        transform: Of images: "logit", or "centre".
        alpha: Of the logit; see `losses.dequantization.logit`.
        dequantizer: Arguments of `networks.dequantizer.Dequantizer` for learned noise;
            without, noise is uniform in each grey level's bin.
    """
    space = make_space(config, transform=transform, alpha=alpha)
    log_det = log_det or ("roulette" if space.images else "exact")
    choose(dict.fromkeys(LOG_DETS), log_det, "config.model.log_det")
    estimate = exact if log_det == "exact" else roulette(num_exact, num_exact_eval, p)
    if compute_dtype(config) != "float32":
        raise ConfigError(f"config.dtype must be 'float32' here, got {config.dtype!r}")
    _check_between("coeff", coeff)
    check_blocks(num_blocks, space, config)
    check_counts("num_dense_blocks", (num_dense_blocks,), least=0)
    check_counts("features", features)

    def steps(count: int, widths: Sequence[int], sizes: Sequence[int]) -> list:
        net = Contraction(tuple(widths), tuple(sizes), coeff)
        step = Chain((ActNorm(), Residual(net, estimate)))
        return [Repeated(step, count)] if count else []

    def level(index: int) -> Chain:
        parts = steps(num_blocks[index], features, kernel_sizes)
        if index < len(num_blocks) - 1:
            inner: nn.Module = level(index + 1)
            return Chain([*parts, Squeezed(FactorOut(inner) if factor_out else inner)])
        dense = steps(num_dense_blocks, dense_features, ())
        return Chain([*parts, *map(Flattened, dense), ActNorm()])

    if not space.images:
        bijection = Chain([*steps(num_blocks[0], features, ()), ActNorm()])
        return as_method(make_flow(config, space, bijection, dequantizer), config)
    check_counts("dense_features", dense_features)
    check_counts("kernel_sizes", kernel_sizes)
    if len(kernel_sizes) != len(features) + 1 or not all(k % 2 for k in kernel_sizes):
        raise ConfigError(
            "config.model.kernel_sizes must be odd, and one more than "
            f"config.model.features={tuple(features)}, got {tuple(kernel_sizes)}"
        )
    return as_method(make_flow(config, space, level(0), dequantizer), config)


def exact(fn: Callable, params: Any, x: Array, key: Array, train: bool) -> Array:
    """The log-determinant of x + fn(params, x), nats [B]."""
    return exact_log_det(lambda x: fn(params, x), x)


def roulette(num_exact: int, num_exact_eval: int, p: float) -> Callable:
    """The estimate of the same, with more terms outside of training."""
    check_count("config.model.num_exact", num_exact)
    check_count("config.model.num_exact_eval", num_exact_eval)
    _check_between("p", p)

    def estimate(fn: Callable, params: Any, x: Array, key: Array, train: bool) -> Array:
        terms = num_exact if train else num_exact_eval
        return roulette_log_det(fn, params, x, key, num_exact=terms, p=p)

    return estimate


def _check_between(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ConfigError(f"config.model.{name} must be in (0, 1), got {value}")
