"""What methods ask of their data, whichever it is."""

from jax import Array
from ml_collections import ConfigDict

from genjax import images
from genjax.config import ConfigError
from genjax.types import Batch


def floats(batch: Batch) -> Array:
    """The data that are modelled: images in [-1, 1], or points as they come."""
    return images.to_float(batch["image"]) if "image" in batch else batch["point"]


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
