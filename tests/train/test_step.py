"""The train step against hand-run games whose updates have closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import recipes

from genjax.config import ConfigError, base_config
from genjax.train import phases
from genjax.train.optimizers import make as make_optimizer
from genjax.train.state import create
from genjax.train.step import make_train_step
from genjax.types import Method, Player


def follower(name: str, steps: int = 1) -> Player:
    """Pulls its one number to the batch mean of x: the gradient is own - mean(x)."""

    def loss(params, model_state, batch, key, *, step, train):
        own, x = params[name]["w"], batch["x"]
        changed = {"seen": model_state["seen"] + len(x)}
        return 0.5 * jnp.mean(jnp.square(own - x)), (changed, {"own": own})

    return Player(name, (name,), loss, steps)


def setup(players, *, rate=0.1, accumulate=1, ema=(), decay=0.9, warmup=False):
    config = base_config()
    config.accumulate = accumulate
    config.ema.update(networks=ema, decay=decay, warmup=warmup)

    def init(key, batch):
        params = {name: {"w": jnp.float32(1.0)} for name in ("a", "b", "frozen")}
        return params, {"seen": jnp.int32(0)}

    method = Method(init=init, players=tuple(players))
    made = {p.name: make_optimizer(10, name="sgd", learning_rate=rate) for p in players}
    optimizers = {name: tx for name, (tx, _) in made.items()}
    rates = {name: rate for name, (_, rate) in made.items()}
    state = create(method, optimizers, config.ema.networks, jax.random.key(0), {})
    return jax.jit(make_train_step(method, optimizers, rates, config)), state


def test_players_take_their_updates_on_batches_of_their_own():
    """Gradient steps of size r to means m_i: w <- (1 - r) w + r m_i, for each i."""
    step, state = setup([follower("a", steps=3), follower("b")])
    x = jnp.array([[1.0, 3.0], [5.0, 5.0], [-2.0, 0.0]])  # Means 2, 5, -1.
    state, metrics = step(state, {"x": x}, jax.random.key(0))
    a = 1.0
    for mean in (2.0, 5.0, -1.0):
        a = 0.9 * a + 0.1 * mean
    np.testing.assert_allclose(state.params["a"]["w"], a, rtol=1e-6)
    np.testing.assert_allclose(state.params["b"]["w"], 0.9 + 0.1 * 2, rtol=1e-6)
    assert state.params["frozen"]["w"] == 1.0
    assert state.model_state["seen"] == 8  # Three batches for a, one for b.
    assert state.step == 1 and not metrics["bad"]
    np.testing.assert_allclose(metrics["b/grad_norm"], 1.0, rtol=1e-6)
    np.testing.assert_allclose(metrics["b/learning_rate"], 0.1, rtol=1e-6)


def test_accumulated_micro_batches_make_one_update_on_their_union():
    """The mean of two micro-batch gradients is that of the whole batch."""
    x = jnp.array([[1.0, 2.0, 4.0, 9.0], [0.0, 0.0, 1.0, 3.0]])
    whole, state = setup([follower("a", steps=2)])
    expected, _ = whole(state, {"x": x}, jax.random.key(0))
    parts, state = setup([follower("a", steps=2)], accumulate=2)
    state, _ = parts(state, {"x": x.reshape(4, 2)}, jax.random.key(0))
    np.testing.assert_allclose(
        state.params["a"]["w"], expected.params["a"]["w"], rtol=1e-6
    )
    assert state.model_state["seen"] == 8


@pytest.mark.parametrize("platform", ["cpu", "default"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_step_changes_nothing_but_the_counters(bad, platform, monkeypatch):
    monkeypatch.setattr(
        jax.lax, "platform_dependent", lambda **branches: branches[platform]()
    )
    step, state = setup([follower("a"), follower("b")], ema=("a",))
    good, poisoned = jnp.array([[2.0, 2.0]]), jnp.array([[2.0, bad]])
    before, _ = step(state, {"x": good}, jax.random.key(0))
    state, metrics = step(before, {"x": poisoned}, jax.random.key(0))
    assert metrics["bad"]
    assert (state.step, state.bad_steps, state.skipped) == (2, 1, 1)
    for name in ("params", "ema_params", "opt_state", "model_state"):
        old, new = (jax.tree.leaves(getattr(s, name)) for s in (before, state))
        assert all(np.array_equal(o, n) for o, n in zip(old, new, strict=True))
    state, _ = step(state, {"x": poisoned}, jax.random.key(0))
    assert state.bad_steps == 2
    state, _ = step(state, {"x": good}, jax.random.key(0))
    assert (state.bad_steps, state.skipped) == (0, 2)


def test_average_without_warmup_is_the_geometric_sum():
    """w_i = 2 - 0.9^i for the mean 2, and ema_n = 0.9 ema + 0.1 w_n step by step."""
    step, state = setup([follower("a")], ema=("a",), decay=0.9)
    ema = 1.0
    for i in range(1, 5):
        state, _ = step(state, {"x": jnp.array([[2.0]])}, jax.random.key(0))
        ema = 0.9 * ema + 0.1 * (2 - 0.9**i)
    np.testing.assert_allclose(state.ema_params["a"]["w"], ema, rtol=1e-6)


def test_warmup_starts_the_average_at_a_tenth():
    """At step 0 the decay is 1 / 10, so one step moves the average nine tenths."""
    step, state = setup([follower("a")], ema=("a",), decay=0.999, warmup=True)
    state, _ = step(state, {"x": jnp.array([[2.0]])}, jax.random.key(0))
    np.testing.assert_allclose(state.ema_params["a"]["w"], 1 + 0.9 * 0.1, rtol=1e-6)


def test_each_step_and_update_draws_its_own_noise():
    def loss(params, model_state, batch, key, *, step, train):
        draw = jax.random.normal(key)
        return 0.0 * params["a"]["w"], ({}, {"draw": draw})

    step, state = setup([Player("a", ("a",), loss)])
    draws = []
    for _ in range(3):
        state, metrics = step(state, {"x": jnp.zeros((1, 2))}, jax.random.key(0))
        draws.append(float(metrics["a/draw"]))
    assert len(set(draws)) == 3


def test_the_optimizer_is_optax():
    """Adam, twice on one gradient, against optax called directly."""
    made = make_optimizer(10, name="adam", learning_rate=0.1, b1=0.5, clip_norm=0.25)[0]
    tx = optax.chain(optax.clip_by_global_norm(0.25), optax.adam(0.1, b1=0.5))
    w = {"w": jnp.array([3.0, -4.0])}
    a, b = made.init(w), tx.init(w)
    for _ in range(2):
        ours, a = made.update(w, a, w)
        theirs, b = tx.update(w, b, w)
        np.testing.assert_allclose(ours["w"], theirs["w"], rtol=1e-6)


@pytest.mark.parametrize("name", ["sngan_digits", "igebm_cifar", "glow_digits"])
def test_networks_of_blocks_can_be_computed_again(name, tmp_path):
    config = recipes.without_files(recipes.get(name), tmp_path)
    config.remat = True
    for phase in phases.build(config):
        phases.check_shapes(phase)


def test_a_network_without_blocks_cannot_be_computed_again():
    config = recipes.get("vae_digits")
    config.remat = True
    (phase,) = phases.build(config)
    with pytest.raises(ConfigError, match=r"has no network of blocks.*accumulate"):
        phases.check_shapes(phase)
