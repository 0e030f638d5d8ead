"""Samplers: pure functions from noise and one key per image to images."""

from genjax.samplers import diffusion, guidance, langevin

__all__ = ["diffusion", "guidance", "langevin"]
