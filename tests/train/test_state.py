"""carry_over, and the names that config and method must share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.config import ConfigError, base_config
from genjax.train.state import carry_over, check_names
from genjax.types import Method, Player


def tree(value, shapes):
    return {
        name: {"layer": {"kernel": jnp.full(shape, value)}}
        for name, shape in shapes.items()
    }


def test_leaves_that_match_in_path_and_shape_are_copied():
    target = tree(0.0, {"kept": (2, 2), "grown": (4, 4), "new": (3,)})
    source = tree(1.0, {"kept": (2, 2), "grown": (2, 2), "gone": (3,)})
    result, copied, kept = carry_over(target, source)
    assert copied == ["['kept']['layer']['kernel']"]
    assert len(kept) == 2
    assert np.all(result["kept"]["layer"]["kernel"] == 1)
    assert np.all(result["grown"]["layer"]["kernel"] == 0)


def test_rename_may_use_one_source_twice():
    target = tree(0.0, {"denoiser": (2,), "control": (2,)})
    source = tree(1.0, {"denoiser": (2,)})
    both = {"denoiser": "denoiser", "control": "denoiser"}
    result, copied, _ = carry_over(target, source, both)
    assert len(copied) == 2 and np.all(result["control"]["layer"]["kernel"] == 1)


def test_copies_are_buffers_of_their_own():
    """The source survives when the target is donated."""
    source = tree(1.0, {"a": (2,)})
    result, _, _ = carry_over(tree(0.0, {"a": (2,)}), source)
    jax.jit(lambda x: jax.tree.map(jnp.negative, x), donate_argnums=0)(result)
    assert np.all(source["a"]["layer"]["kernel"] == 1)


def player(name, *networks):
    return Player(name, networks, loss=None)


@pytest.mark.parametrize(
    "players, optimizers, ema, words",
    [
        ([player("g", "g")], ["d"], (), r"expected \['g'\], got \['d'\]"),
        ([player("g", "g"), player("d", "g")], ["g", "d"], (), "two owners"),
        ([player("g", "g")], ["g"], ("h",), "'h'"),
    ],
)
def test_names_are_checked(players, optimizers, ema, words):
    config = base_config()
    config.optimizers = {name: {} for name in optimizers}
    config.ema.networks = ema
    with pytest.raises(ConfigError, match=words):
        check_names(Method(init=None, players=tuple(players)), config)
