"""Losses: pure functions of arrays and callables, one value per example."""

from genjax.losses import (
    adversarial,
    dequantization,
    diffusion,
    energy,
    likelihood,
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
    "penalties",
    "quantization",
    "reconstruction",
    "variational",
]
