"""Flax modules, one file per architecture: images and conditions in, arrays out."""
