"""Image generative models in JAX and Flax."""
