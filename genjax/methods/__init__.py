"""One file per method; each has one public name, `make`."""

import importlib
from pathlib import Path

from ml_collections import ConfigDict

from genjax.config import ConfigError, nearest
from genjax.types import Method


def load(config: ConfigDict) -> Method:
    """Imports genjax.methods.<config.method> and calls its `make`.

    Raises:
        ConfigError: If there is no such method, with the nearest name.
    """
    name = f"genjax.methods.{config.method}"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise
        known = names()
        raise ConfigError(
            f"config.method: no method {config.method!r}"
            f"{nearest(config.method, known)} Methods: {', '.join(known)}"
        ) from None
    return module.make(config)


def names() -> list[str]:
    """Names that config.method can take."""
    root = Path(__file__).parent
    files = (path.relative_to(root).with_suffix("") for path in root.rglob("*.py"))
    return sorted(".".join(f.parts) for f in files if not f.name.startswith("_"))
