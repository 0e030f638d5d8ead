"""Losses: pure functions of arrays and callables, one value per example."""

from genjax.losses import (
    adversarial,
    diffusion,
    penalties,
    quantization,
    reconstruction,
    variational,
)

__all__ = [
    "adversarial",
    "diffusion",
    "penalties",
    "quantization",
    "reconstruction",
    "variational",
]
