"""What methods ask of their data, whichever it is."""

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from genjax import images
from genjax.config import ConfigError
from genjax.types import Batch


def floats(batch: Batch) -> Array:
    """The data that are modelled: images in [-1, 1], or points as they come."""
    return images.to_float(batch["image"]) if "image" in batch else batch["point"]


def binarized(batch: Batch, how: str, key: Array | None) -> Array:
    """Pixels in {0, 1}, float32 [B, H, W, C].

    Args:
        batch: With uint8 images.
        how: "dynamic" draws each pixel with probability image / 255, "threshold" says
            whether it is above 127, and "none" gives image / 255.
        key: Of the draws; without one "dynamic" gives their mean, image / 255.
    """
    if how == "threshold":
        return (batch["image"] > 127).astype(jnp.float32)
    grey = batch["image"].astype(jnp.float32) / 255
    if how == "none" or key is None:
        return grey
    return (jax.random.uniform(key, grey.shape) < grey).astype(jnp.float32)


def image_shape(config: ConfigDict) -> tuple[int, ...]:
    """(H, W, C) of the data, which must be images."""
    shape = tuple(config.data.shape)
    if len(shape) != 3:
        raise ConfigError(
            f"config.method {config.method!r} needs images [H, W, C], but the examples "
            f"of config.data.name={config.data.name!r} have shape {shape}"
        )
    return shape


def classes(config: ConfigDict) -> int:
    """K of the data, which must have labels."""
    if config.data.num_classes is None:
        raise ConfigError(
            f"config.method {config.method!r} is set up for labels, which "
            f"config.data.name={config.data.name!r} lacks"
        )
    return config.data.num_classes
