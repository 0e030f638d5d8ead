"""One file per method; each has one public name, `make`."""

import importlib
from pathlib import Path

from ml_collections import ConfigDict

from genjax.config import ConfigError, explained, nearest
from genjax.types import Method


def load(config: ConfigDict) -> Method:
    """Imports genjax.methods.<config.method> and calls its `make`.

    Raises:
        ConfigError: If there is no such method, with the nearest name; or if it cannot
            be made from the config.
    """
    known = names()
    if not isinstance(config.method, str) or config.method not in known:
        raise ConfigError(
            f"config.method: no method {config.method!r}"
            f"{nearest(str(config.method), known)} Methods: {', '.join(known)}"
        )
    module = importlib.import_module(f"genjax.methods.{config.method}")
    with explained("config.model or config.sampler"):
        return module.make(config)


def names() -> list[str]:
    """Names that config.method can take."""
    root = Path(__file__).parent
    files = (path.relative_to(root).with_suffix("") for path in root.rglob("*.py"))
    return sorted(".".join(f.parts) for f in files if not f.name.startswith("_"))
