"""Samplers: pure functions from noise and one key per image to images."""

from genjax.samplers import (
    autoregressive,
    diffusion,
    guidance,
    langevin,
    metropolis_hastings,
)

__all__ = [
    "autoregressive",
    "diffusion",
    "guidance",
    "langevin",
    "metropolis_hastings",
]
