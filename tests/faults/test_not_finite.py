"""NaN and infinity wherever they can come from: skipped, counted and never saved."""

import math
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipes
from runs import arrays, different, finish, logged, saved, words

from genjax import data, methods
from genjax.config import ConfigDict
from genjax.train import checkpoints, evaluation, loop, phases
from genjax.types import Player

BAD = (3, 4)  # Steps that something is wrong with, counted from 0.


def make(dtype: str = "float32", **fields: object) -> ConfigDict:
    config = recipes.get("vae_digits")
    config.update(num_steps=8, log_every=1, sample_every=0, eval_every=0, dtype=dtype)
    config.ema.networks = ("decoder",)
    config.optimizers.vae.schedule = "constant"
    config.checkpoint.update(every=1, keep=10)
    config.update_from_flattened_dict(fields)
    return config


@jax.custom_vjp
def spoilt(value, factor):
    """The value as it is; its gradient is multiplied by the factor."""
    return value


spoilt.defvjp(lambda v, f: (v, f), lambda f, g: (g * f, jnp.zeros_like(f)))


def change_loss(monkeypatch, where: str, number: float) -> None:
    """Puts the number into the loss, its gradient or a metric, at the steps BAD."""
    original = methods.load

    def load(config):
        method = original(config)
        (player,) = method.players

        def loss(params, model_state, batch, key, *, step, train):
            value, (changed, metrics) = player.loss(
                params, model_state, batch, key, step=step, train=train
            )
            wrong = jnp.where(jnp.isin(step, jnp.array(BAD)) & train, number, 1.0)
            if where == "gradient":
                value = spoilt(value, wrong)
            elif where == "loss":
                value = value + (wrong - 1)  # The gradient is as before.
            return value, (changed, metrics)

        return replace(method, players=(Player(player.name, player.networks, loss),))

    monkeypatch.setattr(methods, "load", load)


def weights_and_moments(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """What an update changes."""
    counters = ("['step']", "['bad_steps']", "['skipped']")
    return {k: v for k, v in arrays(workdir, step).items() if not k.endswith(counters)}


def all_finite(workdir: Path) -> bool:
    """Every array of every checkpoint."""
    return bool(saved(workdir)) and all(
        np.isfinite(x.astype(np.float64)).all()
        for at in saved(workdir)
        for x in arrays(workdir, at).values()
    )


@pytest.mark.parametrize(
    "where, number, dtype",
    [
        ("gradient", math.nan, "float32"),
        ("gradient", math.inf, "bfloat16"),
        ("loss", -math.inf, "bfloat16"),
    ],
)
def test_bad_steps_are_skipped_and_counted(where, number, dtype, tmp_path, monkeypatch):
    """Two of eight: what they would have changed stays to the bit, then it goes on."""
    change_loss(monkeypatch, where, number)
    assert loop.train(make(dtype), tmp_path)
    before, *after = (weights_and_moments(tmp_path, step) for step in (3, 4, 5, 6))
    assert not any(different(before, same) for same in after[:2])
    assert different(before, after[2])
    assert all_finite(tmp_path)
    rows = logged(tmp_path)
    assert [row["skipped_steps"] for row in rows] == [0, 0, 0, 1, 2, 2, 2, 2]
    assert ["vae/loss" in row for row in rows] == [s not in BAD for s in range(8)]
    last = arrays(tmp_path)
    assert last["['training']['opt_state']['vae'][0]['count']"] == 6
    assert last["['training']['bad_steps']"] == 0 and last["['training']['step']"] == 8


def test_examples_that_are_not_finite_end_the_run_by_name(tmp_path, monkeypatch):
    """Points are floats: one NaN in the batch of step 2, an infinity in that of 3.

    The host looks at each log line, here the eighth step; the six others were good.
    """
    config = recipes.get("glow_moons")
    config.update(num_steps=9, log_every=8, sample_every=0, eval_every=0)
    config.update(max_bad_steps=2, dtype="bfloat16")
    config.checkpoint.every = 1
    (phase,) = phases.build(config)
    batches = phase.batches()
    rows = [next(batches)["index"].ravel() for _ in range(4)]
    load = data.load

    def with_bad_points(options):
        dataset = load(options)
        points = dataset.train.columns["point"]
        points[rows[2][1], 0], points[rows[3][2], 1] = np.nan, np.inf
        return dataset

    monkeypatch.setattr(data, "load", with_bad_points)
    with pytest.raises(loop.TrainingDivergedError) as error:
        loop.train(config, tmp_path)
    assert "2 or more steps in a row" in str(error.value)
    assert "first was step 2" in str(error.value)
    assert f"moons/train[{rows[2][1]}]" in str(error.value)
    assert all_finite(tmp_path)
    assert saved(tmp_path)[-1] == 7
    assert arrays(tmp_path)["['training']['skipped']"] == 2


@pytest.mark.parametrize("field", ["ema_params", "opt_state", "model_state"])
def test_what_went_bad_outside_the_loss_is_never_saved(field, tmp_path, monkeypatch):
    """An average, a moment or a replay buffer is NaN after three good steps."""
    original = phases.make_train_step

    def make_train_step(*args):
        take = original(*args)

        def train_step(state, batches, key):
            new, metrics = take(state, batches, key)
            wrong = jnp.where(state.step == BAD[0], jnp.nan, 0)
            tree = jax.tree.map(
                lambda x: x + wrong if x.dtype == jnp.float32 else x,
                getattr(new, field),
            )
            return new.replace(**{field: tree}), metrics

        return train_step

    monkeypatch.setattr(phases, "make_train_step", make_train_step)
    config = recipes.get("igebm_rings")
    config.update(num_steps=8, log_every=8, sample_every=0, eval_every=0)
    config.checkpoint.every = 1
    with pytest.raises(loop.TrainingDivergedError, match=r"step 4 .* is not finite"):
        loop.train(config, tmp_path)
    assert saved(tmp_path)[-1] == 3 and all_finite(tmp_path)


def test_no_best_is_chosen_by_a_number_that_is_not_finite(tmp_path, monkeypatch):
    """From step 3 on samples are NaN: that is logged, and training goes on."""
    config = recipes.get("glow_moons")
    config.update(num_steps=6, log_every=1, sample_every=6, eval_every=1)
    config.update(eval_examples=8, eval_samples=8)
    config.checkpoint.update(every=10, keep=1, best_metric="samples/frechet")
    original = evaluation.of_samples
    seen = []

    def of_samples(samples, *args):
        seen.append(0)
        return original(samples * (np.nan if len(seen) > 2 else 1), *args)

    monkeypatch.setattr(evaluation, "of_samples", of_samples)
    assert loop.train(config, tmp_path)
    found = [x["samples/frechet"] for x in logged(tmp_path) if "samples/frechet" in x]
    assert [math.isfinite(x) for x in found] == [True] * 2 + [False] * 4
    best = checkpoints.load_weights(tmp_path, "best").step
    assert best == 1 + int(found[1] < found[0])
    assert saved(tmp_path) == sorted({best, 6})


def test_the_command_ends_with_one_error_and_the_last_checkpoint_whole(tmp_path):
    """A rate that leaves float32 makes every later step bad."""
    run = tmp_path / "run"
    assert loop.train(make(num_steps=3), run)
    before = arrays(run)
    fields = {
        "num_steps": 50, "max_bad_steps": 3, "ema__networks": "('decoder',)",
        "optimizers__vae__schedule": "constant", "optimizers__vae__clip_norm": 1e30,
        "optimizers__vae__learning_rate": 1e38, "checkpoint__every": 100,
    }  # fmt: skip
    code, said = finish([*words(run, **fields), "--partial"])
    assert code == 1 and "Traceback" not in said
    (error,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert "3 or more steps in a row" in error and "digits/train[" in error
    assert "the last checkpoint is of step 3" in error and "--partial" in error
    assert saved(run) == [1, 2, 3] and not different(before, arrays(run))
