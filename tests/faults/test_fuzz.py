"""Random damage and random wishes end in one of genjax's own errors, or work.

200 cases each, or 5,000 with HYPOTHESIS_PROFILE=nightly.
"""

import importlib
import resource
import time

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
import recipes
from hypothesis import given
from ml_collections import ConfigDict

from genjax.config import ConfigError, flatten
from genjax.train import checkpoints, loop, phases

RECIPES = (
    "vae_digits",
    "ddpm_digits",
    "made_digits",
    "non_saturating_grid",
    "ncsn_ring",
    "rbm_digits",
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A finished tiny run, the bytes of its files, and where to put copies."""
    folder = tmp_path_factory.mktemp("runs")
    config = importlib.import_module("configs.vae_digits").get_config("tiny")
    config.update(sample_every=0, eval_every=0)
    assert loop.train(config, folder / "run")
    root = folder / "run" / "checkpoints"
    files = {
        str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()
    }
    return root, dict(sorted(files.items()))


@st.composite
def damage(draw, files):
    """[(file, its new bytes or None if it is deleted)], of one file or a few."""
    changes = {}
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(list(files)))
        content = changes.get(name, files[name]) or b""
        start = draw(st.integers(0, max(len(content) - 1, 0)))
        end = min(len(content), start + draw(st.integers(1, 64)))
        kind = draw(st.sampled_from(
            ["flip", "truncate", "delete bytes", "repeat", "splice", "digits", "delete"]
        ))  # fmt: skip
        other = files[draw(st.sampled_from(list(files)))]
        noise = draw(st.binary(min_size=1, max_size=8))
        changes[name] = {
            "flip": content[:start] + bytes(b ^ noise[0] for b in content[start:][:1])
            + content[start + 1 :],
            "truncate": content[:start],
            "delete bytes": content[:start] + content[end:],
            "repeat": content[:end] + content[start:],
            "splice": content[:start] + other[start:end] + noise + content[end:],
            "digits": content.translate(bytes.maketrans(b"0123456789", b"9876543210")),
            "delete": None,
        }[kind]  # fmt: skip
    return changes


def test_damaged_checkpoints_load_or_are_refused(saved):
    """Whatever loads is a tree of finite numbers."""
    root, files = saved
    # The others are for training alone.
    read = {k: v for k, v in files.items() if not k.startswith(("2/tr", "2/pos"))}
    loaded, refused = [], []

    @given(damage(read))
    def check(changes):
        try:
            for name, content in changes.items():
                if content is None:
                    (root / name).unlink()
                else:
                    (root / name).write_bytes(content)
            weights = checkpoints.load_weights(root.parent)
            assert all(np.isfinite(x).all() for x in jax.tree.leaves(weights.params))
            loaded.append(changes)
        except ConfigError as error:
            refused.append(str(error))
        finally:
            for name in changes:
                (root / name).write_bytes(files[name])

    check()
    assert len(loaded) > 10 and len(set(refused)) > 10


NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 2, 3, 7, 2**31, 2**63, 10**12, 10**400, -(2**31)]),
    st.integers(-5, 40),
    st.floats(allow_nan=True, allow_infinity=True),
    st.booleans(),
    st.none(),
)
WORDS = st.one_of(
    st.sampled_from(
        ["", "abc", "none", "adam", "../../evil", "x" * 5000, "(", "tfds:"]
    ),
    st.text(max_size=5),
)
VALUES = st.recursive(
    st.one_of(NUMBERS, WORDS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.lists(inner, max_size=3),
        st.dictionaries(WORDS.filter(lambda w: "." not in w), inner, max_size=2),
    ),
    max_leaves=4,
)


def put(config, path: str, value) -> None:
    """Sets it whatever was there."""
    *parents, name = path.split(".")
    for parent in parents:
        config = config[parent]
        if not isinstance(config, ConfigDict):
            return
    with config.unlocked(), config.ignore_type():
        config[name] = value


@st.composite
def wishes(draw):
    """(recipe, {path: value}) of one field or a few, some of which there are not."""
    recipe = draw(st.sampled_from(RECIPES))
    known = flatten(recipes.get(recipe).to_dict())
    sections = ["model", "data", "optimizers", "ema", "mesh", "sampler"]
    path = st.one_of(
        st.sampled_from(sorted(known)), st.sampled_from(sorted(known)),
        st.sampled_from([*sections, "evil", "model.evil", "data.evil"]),
    )  # fmt: skip
    likely = {int: st.integers(-1, 12), float: st.floats(-0.1, 2), bool: st.booleans()}
    changes = {}
    for _ in range(draw(st.integers(1, 3))):
        name = draw(path)
        same = likely.get(type(known.get(name)), VALUES)
        changes[name] = draw(st.one_of(same, VALUES))
    return recipe, changes


def test_random_wishes_work_or_are_refused_before_any_work():
    """Built as a run is, up to its first compilation; soon, and in little memory."""
    worked, refused = [], []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @given(wishes())
    def check(wish):
        recipe, changes = wish
        config, start = recipes.get(recipe), time.process_time()
        try:
            for path, value in changes.items():
                try:
                    put(config, path, value)
                except (TypeError, ValueError, KeyError, AttributeError):
                    return  # No ConfigDict can hold that.
            for phase in phases.build(config):
                phases.check_shapes(phase)
                loop.check_evaluation(phase)
            worked.append(changes)
        except ConfigError as error:
            refused.append(str(error))
            assert len(str(error)) < 5000
        assert time.process_time() - start < 60

    check()
    assert len(worked) > 5 and len(set(refused)) > 50
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 4 * 2**20  # KiB.
