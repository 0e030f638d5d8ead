"""The recipes in configs/, found unasked."""

import importlib
from pathlib import Path

import numpy as np
from PIL import Image

from genjax.config import ConfigDict

ROOT = Path(__file__).parents[1]


def names() -> list[str]:
    return sorted(p.stem for p in (ROOT / "configs").glob("*.py"))


def get(name: str, variant: str = "tiny") -> ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config(variant)


def of_method(method: str) -> str:
    """A recipe that uses the method, one whose data needs no files if there is one."""
    using = [n for n in names() if get(n).method == method]
    assert using, f"no recipe in configs/ uses {method!r}"
    order = ("digits", "synthetic:ring", "synthetic:grid")
    return min(using, key=lambda n: (get(n).data.name not in order, n))


def without_files(config: ConfigDict, folder: Path) -> ConfigDict:
    """The config on data of the same shape that are made here."""
    size = {"tfds:mnist": (28, 28), "tfds:cifar10": (32, 32, 3)}
    if config.data.name == "digits" or config.data.name.startswith("synthetic:"):
        return config
    shape = size.get(config.data.name, (16, 24, 3))
    random = np.random.RandomState(0)
    for i in range(40):
        path = folder / "images" / str(i % 4) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.randint(256, size=shape).astype(np.uint8)).save(path)
    config.data.update(name=f"folder:{folder / 'images'}", image_size=None)
    return config
