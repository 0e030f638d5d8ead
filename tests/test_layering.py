"""Imports point one way: losses, samplers <- networks <- methods <- train."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from genjax import methods

ROOT = Path(__file__).parents[1] / "genjax"
PURE = {"losses", "samplers", "schedules", "processes", "images", "latents", "types"}
PURE |= {"files", "placement"}
ALLOWED = {  # Layer: modules of ours, and libraries, that it may import.
    **{name: (PURE, {"jax", "numpy"}) for name in PURE},
    "config": ({"config"}, {"ml_collections"}),
    "untrusted": ({"config"}, {"numpy", "safetensors"}),
    "networks": (PURE | {"networks"}, {"jax", "numpy", "flax"}),
    "data": (
        {"config", "data", "untrusted"},
        {"numpy", "grain", "PIL", "sklearn", "etils", "tqdm"}
        | {"array_record", "tensorflow_datasets"},
    ),
    "metrics": (
        PURE | {"networks", "metrics", "untrusted"},
        {"jax", "numpy", "flax", "optax", "safetensors", "scipy", "sklearn"},
    ),
    "methods": (
        PURE | {"config", "networks", "methods"},
        {"jax", "numpy", "flax", "ml_collections", "diffrax"},
    ),
    "train": (
        PURE
        | {"config", "data", "methods", "metrics", "networks", "train", "untrusted"},
        {"jax", "numpy", "flax", "ml_collections", "optax", "orbax", "absl", "tqdm"}
        | {"platformdirs", "tensorboardX"},
    ),
}
# Imported inside a function that reads or writes files.
LAZY = {"images": {"PIL"}, "metrics": {"torch"}, "train": {"matplotlib"}}


def imported(path: Path) -> set[tuple[str, str | None]]:
    """(library, our layer or None) of every import in a file, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            library, *rest = name.split(".")
            if library not in sys.stdlib_module_names:
                found.add((library, rest[0] if library == "genjax" else None))
    return found


def files() -> list[Path]:
    return [p for p in sorted(ROOT.rglob("*.py")) if p != ROOT / "__init__.py"]


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    layer = path.relative_to(ROOT).parts[0].removesuffix(".py")
    ours, libraries = ALLOWED[layer]
    libraries = libraries | LAZY.get(layer, set())
    for library, module in imported(path):
        if library == "genjax":
            assert module in ours, f"{layer} must not import genjax.{module}"
        else:
            assert library in libraries, f"{layer} must not import {library}"


def test_losses_and_samplers_import_with_jax_alone():
    """A fresh interpreter in which every other library is missing."""
    others = sorted({"optax", "orbax"}.union(*(names for _, names in ALLOWED.values())))
    missing = [name for name in others if name not in ("jax", "numpy")]
    code = (
        f"import sys\n\nMISSING = {missing}\n"
        + """

for name in MISSING:
    sys.modules[name] = None  # Importing it fails, as if it were not installed.

from genjax import losses, samplers, schedules
import jax

a = schedules.alphas_cumprod(schedules.cosine(10))
eps_fn = lambda x_t, t: 0 * x_t
x0 = jax.numpy.zeros((2, 4, 4, 1))
print(losses.diffusion.simple_loss(eps_fn, x0, jax.random.key(0), alphas_cumprod=a))
keys = jax.random.split(jax.random.key(0), 2)
noise = samplers.diffusion.initial_noise(keys, (4, 4, 1))
print(samplers.diffusion.ddim(eps_fn, noise, alphas_cumprod=a).shape)
"""
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent
    )
    assert run.returncode == 0, run.stderr
    assert "(2, 4, 4, 1)" in run.stdout


def test_no_file_outside_methods_names_a_method():
    """The contract serves every method alike, so the spine knows none by name."""
    names = set(methods.names()) | {name.split(".")[-1] for name in methods.names()}
    assert "diffusion.ddpm" in names
    everything = {*ROOT.rglob("*.py"), *ROOT.parent.glob("*.py")}
    spine = everything - {*(ROOT / "methods").rglob("*.py")}
    assert ROOT / "train" / "loop.py" in spine and ROOT.parent / "sample.py" in spine
    for path in spine:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant):
                assert node.value not in names, f"{path}:{node.lineno} names a method"


# Slow to import, and of no use to a VAE of the digits before its first batch.
HEAVY = ("IPython", "PIL", "array_record", "diffrax", "equinox", "grain", "matplotlib")
HEAVY += ("pandas", "scipy", "sklearn", "tensorflow", "tensorflow_datasets", "torch")
START = """
import sys
import train
print([name for name in NAMES if name in sys.modules])

from configs import vae_digits
from genjax.train import loop, runtime
for phase in loop.build(vae_digits.get_config("tiny")):
    loop.check_evaluation(phase)
print([name for name in NAMES if name in sys.modules])
"""


def test_a_start_imports_nothing_that_the_recipe_does_not_use():
    """A fresh interpreter: what `train.py` imports, then what a recipe adds to it.

    Reading the flags needs no JAX, and PyTorch would take as long as all else together.
    """
    libraries = ("jax", "flax", "optax", "orbax")
    run = subprocess.run(
        [sys.executable, "-c", f"NAMES = {(*HEAVY, *libraries)}\n{START}"],
        capture_output=True,
        text=True,
        cwd=ROOT.parent,
    )
    assert run.stdout.splitlines() == ["[]", str(list(libraries))], run.stderr
