"""Losses: pure functions of arrays and callables, one value per example."""

from genjax.losses import (
    adversarial,
    dequantization,
    diffusion,
    energy,
    likelihood,
    log_det,
    penalties,
    quantization,
    reconstruction,
    variational,
)

__all__ = [
    "adversarial",
    "dequantization",
    "diffusion",
    "energy",
    "likelihood",
    "log_det",
    "penalties",
    "quantization",
    "reconstruction",
    "variational",
]
