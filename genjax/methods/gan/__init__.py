"""Generative adversarial networks: a generator against a discriminator or critic."""
