"""Losses: pure functions of arrays and callables, one value per image."""

from genjax.losses import diffusion

__all__ = ["diffusion"]
