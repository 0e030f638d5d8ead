"""Real runs of the loop on real digits: resuming, stopping, phases, bad numbers."""

import json
import math
import signal
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipes

from configs.ddpm_digits import get_config
from genjax import data, methods
from genjax.config import ConfigError
from genjax.metrics.frechet import pixel_distance
from genjax.train import checkpoints, evaluation, feed, loop, phases, quality
from genjax.types import Player


@pytest.fixture
def config():
    config = get_config("tiny")
    config.num_steps = 8
    config.sample_every = 0
    config.log_every = 2
    config.optimizers.denoiser.decay_steps = 8
    return config


@pytest.fixture
def seen(monkeypatch):
    """The examples of every batch that a train step was given, in order."""
    indices: list[list[int]] = []
    original = feed.Feed.__next__

    def record(self):
        batch, index = original(self)
        indices.append(index.ravel().tolist())
        return batch, index

    monkeypatch.setattr(feed.Feed, "__next__", record)
    return indices


def lines(workdir: Path) -> list[dict]:
    return [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]


def arrays(workdir: Path) -> dict:
    """Every array in the last checkpoint."""
    manager = checkpoints.ocp.CheckpointManager(
        workdir / "checkpoints", item_handlers=checkpoints.handlers()
    )
    args = checkpoints.ocp.args.StandardRestore()
    names = {"weights": args, "training": args}
    with manager:
        tree = manager.restore(
            manager.latest_step(), args=checkpoints.ocp.args.Composite(**names)
        )
    flat, _ = jax.tree_util.tree_flatten_with_path(dict(tree.items()))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}


def stop_after(monkeypatch, step: int):
    """Sends this process a real SIGTERM when the given step is reached."""
    original = loop.StopRequest.seen

    def seen_at(self, now):
        if now == step:
            signal.raise_signal(signal.SIGTERM)
        return original(self, now)

    monkeypatch.setattr(loop.StopRequest, "seen", seen_at)


def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(
    config, tmp_path, seen, monkeypatch
):
    """To the bit on CPU, and on the same examples."""
    assert loop.train(config, tmp_path / "straight")
    expected = seen.copy()
    seen.clear()
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert not loop.train(config, tmp_path / "stopped")
    assert checkpoints.load_weights(tmp_path / "stopped").step == 3
    assert loop.train(config, tmp_path / "stopped")
    assert len(expected) == 8 and seen == expected
    straight, stopped = arrays(tmp_path / "straight"), arrays(tmp_path / "stopped")
    assert straight.keys() == stopped.keys()
    different = [k for k in straight if not np.array_equal(straight[k], stopped[k])]
    assert not different
    losses = [
        {x["step"]: x["denoiser/loss"] for x in lines(tmp_path / name)}
        for name in ("straight", "stopped")
    ]
    assert losses[0][8] == losses[1][8]


def test_a_finished_run_says_so(config, tmp_path, capsys):
    config.num_steps = 1
    assert loop.train(config, tmp_path) and loop.train(config, tmp_path)
    assert "Already finished" in capsys.readouterr().err
    assert len(lines(tmp_path)) == 1


def test_a_longer_run_goes_on_where_the_shorter_ended(config, tmp_path):
    config.num_steps = 1
    loop.train(config, tmp_path)
    config.num_steps = 2
    loop.train(config, tmp_path)
    assert [x["step"] for x in lines(tmp_path)] == [1, 2]


def test_another_config_is_refused_with_the_difference(config, tmp_path):
    config.num_steps = 1
    loop.train(config, tmp_path)
    config.data.batch_size = 16
    with pytest.raises(ConfigError, match=r"data\.batch_size: 8 there, 16 here"):
        loop.train(config, tmp_path)


def poison(monkeypatch, bad: set[int]):
    """Makes the loss NaN at the given steps."""
    original = methods.load

    def load(config):
        method = original(config)
        (player,) = method.players

        def loss(params, model_state, batch, key, *, step, train):
            value, rest = player.loss(
                params, model_state, batch, key, step=step, train=train
            )
            return jnp.where(jnp.isin(step, jnp.array([*bad])), jnp.nan, value), rest

        changed = Player(player.name, player.networks, loss)
        return replace(method, players=(changed,))

    monkeypatch.setattr(methods, "load", load)


def test_non_finite_steps_in_a_row_end_the_run_and_name_the_examples(
    config, tmp_path, monkeypatch
):
    poison(monkeypatch, {3, 4, 5})
    config.max_bad_steps, config.checkpoint.every = 3, 2
    with pytest.raises(loop.TrainingDivergedError) as error:
        loop.train(config, tmp_path)
    assert "step 3" in str(error.value) and "digits/train[" in str(error.value)
    weights = checkpoints.load_weights(tmp_path)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(weights.averaged()))


def test_non_finite_steps_between_two_log_lines_end_the_run_too(
    config, tmp_path, monkeypatch
):
    poison(monkeypatch, {2, 3, 4})
    config.max_bad_steps, config.log_every = 3, 8
    with pytest.raises(
        loop.TrainingDivergedError, match=r"3 or more steps in a row.*step 2"
    ):
        loop.train(config, tmp_path)


def test_non_finite_steps_count_on_after_resuming(config, tmp_path, monkeypatch):
    poison(monkeypatch, {3, 4, 5})
    config.max_bad_steps, config.num_steps = 3, 5
    assert loop.train(config, tmp_path)
    config.num_steps = 8
    with pytest.raises(loop.TrainingDivergedError, match=r"first was step 5"):
        loop.train(config, tmp_path)


def test_a_few_non_finite_steps_are_skipped_and_counted(config, tmp_path, monkeypatch):
    poison(monkeypatch, {3, 5})
    assert loop.train(config, tmp_path)
    assert lines(tmp_path)[-1]["skipped_steps"] == 2
    saved = arrays(tmp_path)
    assert all(np.isfinite(x).all() for x in saved.values())
    (count,) = {int(v) for k, v in saved.items() if k.endswith("'count']")}
    assert count == 6  # Of eight steps, two took no update.


def test_weights_that_overflow_are_never_saved(config, tmp_path):
    """A rate of 3e38 times a gradient above one leaves float32."""
    config.optimizers.denoiser = dict(name="sgd", learning_rate=3e38)
    config.model.weighting = "constant"  # Divides errors of eps by a small SNR.
    config.checkpoint.every = 1
    with pytest.raises(loop.TrainingDivergedError, match="step 1 a weight"):
        loop.train(config, tmp_path)
    assert not list((tmp_path / "checkpoints").glob("[0-9]*"))


def test_phases_carry_what_fits_over(config, tmp_path):
    """The second phase has another dropout and fewer steps, and starts trained."""
    config.num_steps = 2
    config.phases = ({}, {"num_steps": 1, "model.network.dropout": 0.5})
    config.optimizers.denoiser.update(
        learning_rate=0.0, warmup_steps=0, schedule="constant"
    )
    assert loop.train(config, tmp_path)
    weights = checkpoints.load_weights(tmp_path)
    assert weights.step == 3 and weights.config.model.network.dropout == 0.5
    other = tmp_path / "alone"
    config.phases = ()
    assert loop.train(config, other)
    # A learning rate of zero: what is there at the end is what the first phase had.
    for a, b in zip(
        jax.tree.leaves(weights.params),
        jax.tree.leaves(checkpoints.load_weights(other).params),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_init_from_brings_trained_weights(config, tmp_path):
    config.num_steps = 1
    loop.train(config, tmp_path / "teacher")
    config.init_from = ({"workdir": str(tmp_path / "teacher")},)
    config.optimizers.denoiser.update(
        learning_rate=0.0, warmup_steps=0, schedule="constant"
    )
    loop.train(config, tmp_path / "student")
    teacher = checkpoints.load_weights(tmp_path / "teacher").averaged()
    student = checkpoints.load_weights(tmp_path / "student")
    for weights in (student.params, student.averaged()):
        same = jax.tree.map(lambda a, b: bool((a == b).all()), teacher, weights)
        assert all(jax.tree.leaves(same))


def test_a_phase_goes_on_from_the_one_before_not_from_init_from(config, tmp_path):
    config.num_steps = 1
    config.optimizers.denoiser.update(warmup_steps=0, schedule="constant")
    loop.train(config, tmp_path / "teacher")
    config.init_from = ({"workdir": str(tmp_path / "teacher")},)
    config.phases = ({}, {"num_steps": 1, "optimizers.denoiser.learning_rate": 0.0})
    config.checkpoint.every = 1
    loop.train(config, tmp_path / "student")
    teacher = checkpoints.load_weights(tmp_path / "teacher").averaged()
    first, last = (
        checkpoints.load_weights(tmp_path / "student", step).params for step in (1, 2)
    )
    jax.tree.map(np.testing.assert_array_equal, first, last)
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), teacher, last)
    assert max(jax.tree.leaves(moved)) > 1e-4


def test_lengths_of_phases_cannot_change_in_a_started_run(config, tmp_path):
    config.num_steps, config.phases = 2, ({}, {"num_steps": 1})
    loop.train(config, tmp_path)
    config.num_steps = 1
    with pytest.raises(ConfigError, match="num_steps: 2 there, 1 here"):
        loop.train(config, tmp_path)


def test_a_signal_at_the_last_step_leaves_nothing_undone(config, tmp_path, monkeypatch):
    config.num_steps, config.eval_every, config.sample_every = 2, 100, 100
    config.checkpoint.best_metric = "test/denoiser/loss"
    seen = loop.StopRequest.seen

    def at_the_end(self, step):
        if step == 2:
            signal.raise_signal(signal.SIGTERM)
        return seen(self, step)

    monkeypatch.setattr(loop.StopRequest, "seen", at_the_end)
    assert loop.train(config, tmp_path)
    assert (tmp_path / "samples" / "00000002.png").exists()
    assert checkpoints.load_weights(tmp_path, "best").step == 2


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"workdir": "x", "stp": 1}, "config.init_from has no field 'stp'; did you"),
        ({"step": 1}, "config.init_from: missing a required argument: 'workdir'"),
        ({"workdir": "nowhere"}, "'nowhere', which has no checkpoint"),
    ],
)
def test_bad_entry_of_init_from_is_refused(config, tmp_path, entry, message):
    config.init_from = (entry,)
    with pytest.raises(ConfigError, match=message):
        loop.train(config, tmp_path)


def test_frozen_network_that_is_filled_in_part_is_refused(config, tmp_path):
    """Without players every network is frozen; a deeper one matches only in part."""
    loop.train(config, tmp_path)
    config.init_from = ({"workdir": str(tmp_path)},)

    def start(config):
        (phase,) = phases.build(config)
        method = replace(phase.method, players=())
        return phases.start_state(replace(phase, method=method, optimizers={}), None)

    weights = checkpoints.load_weights(tmp_path).averaged()
    jax.tree.map(np.testing.assert_array_equal, start(config).params, dict(weights))
    config.model.network.num_res_blocks = 2
    with pytest.raises(ConfigError, match=r"no player trains \d+ arrays, among them"):
        start(config)


def test_the_end_names_samples_that_are_there(config, tmp_path, capsys):
    config.num_steps = 1
    loop.train(config, tmp_path / "none")
    assert "To sample:" in capsys.readouterr().err
    config.sample_every = 1
    loop.train(config, tmp_path / "some")
    assert f"Samples: {tmp_path / 'some' / 'samples'}." in capsys.readouterr().err
    assert list((tmp_path / "some" / "samples").glob("*.png"))


@pytest.mark.parametrize(
    ("losses", "stay", "best"),
    [
        ([5.0, 1.0, 4.0, 3.0], {3, 4, 6, 8}, 4),
        ([5.0, 4.0, math.nan, 1.0], {3, 6, 8}, 8),
    ],
)
def test_best_last_and_periodic_checkpoints_stay(
    losses, stay, best, config, tmp_path, monkeypatch
):
    """With those test losses at steps 2, 4, 6 and 8; NaN is no best."""
    values = iter(losses)

    def evaluate(self, state, step):
        return {"test/denoiser/loss": next(values)}

    monkeypatch.setattr(loop.Runner, "evaluate", evaluate)
    config.eval_every = 2
    config.checkpoint.update(
        every=1, keep=1, keep_period=3, best_metric="test/denoiser/loss"
    )
    loop.train(config, tmp_path)
    there = {int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.is_dir()}
    assert there == stay
    assert checkpoints.load_weights(tmp_path, "best").step == best
    assert checkpoints.load_weights(tmp_path, 6).step == 6
    with pytest.raises(ConfigError, match=r"no checkpoint of step 5.*\[3, .*6, 8\]"):
        checkpoints.load_weights(tmp_path, 5)


def test_the_best_checkpoint_can_be_that_of_the_best_samples(config, tmp_path):
    """Samples are measured at steps 2, 4, 6 and 8, with the loop's own numbers."""
    config.update(eval_every=2, eval_samples=30, eval_examples=8)
    config.checkpoint.update(every=100, keep=1, best_metric="samples/frechet")
    loop.train(config, tmp_path)
    found = {
        x["step"]: x["samples/frechet"] for x in lines(tmp_path) if "test" in str(x)
    }
    assert sorted(found) == [2, 4, 6, 8] and len(set(found.values())) == 4
    best = checkpoints.load_weights(tmp_path, "best")
    assert best.step == min(found, key=found.get)
    (phase,) = phases.build(config)
    draw = loop.make_draw(phase.method, phase.mesh, 30)
    cond = loop.make_cond(phase.method, phase.config, 30)
    drawn = draw(best.averaged(), {}, seed=config.seed, num=30, cond=cond)
    real = phase.dataset.test.columns["image"]
    assert pixel_distance(drawn, real) == pytest.approx(found[best.step], rel=1e-3)


def test_the_best_can_be_chosen_by_features(config, tmp_path, untrained_classifier):
    """Those of a classifier of the data, beside the distance in pixels."""
    config.update(num_steps=2, eval_every=1, eval_samples=20, eval_features="cnn")
    config.checkpoint.best_metric = "samples/fd_digits_cnn"
    loop.train(config, tmp_path / "run")
    found = {x["step"]: x for x in lines(tmp_path / "run") if "samples/frechet" in x}
    best = checkpoints.load_weights(tmp_path / "run", "best").step
    assert best == min(found, key=lambda s: found[s]["samples/fd_digits_cnn"])
    dataset = data.load(config.data)
    weights = checkpoints.load_weights(tmp_path / "run", 2)
    (phase,) = phases.build(config)
    judge = quality.from_config(config, dataset, phase.mesh)
    draw = loop.make_draw(phase.method, phase.mesh, 20)
    cond = loop.make_cond(phase.method, phase.config, 20)
    drawn = draw(weights.averaged(), {}, seed=config.seed, num=20, cond=cond)
    expected = judge.measure(drawn)["samples/fd_digits_cnn"]["value"]
    assert found[2]["samples/fd_digits_cnn"] == pytest.approx(expected, rel=1e-3)


def test_samples_to_measure_must_be_two(config, tmp_path):
    config.update(eval_every=2, eval_samples=1)
    with pytest.raises(ConfigError, match="at least 2"):
        loop.train(config, tmp_path)


@pytest.mark.parametrize("best, every", [("test/denoiser/los", 2), ("test/x", 0)])
def test_an_unknown_best_metric_is_refused_before_training(
    config, tmp_path, best, every
):
    config.checkpoint.best_metric, config.eval_every = best, every
    with pytest.raises(ConfigError, match="is not measured"):
        loop.train(config, tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_bfloat16_computes_and_keeps_float32_weights(config, tmp_path):
    """Accumulating as well, where gradients of parts are added."""
    config.num_steps, config.dtype, config.accumulate = 2, "bfloat16", 2
    assert loop.train(config, tmp_path)
    weights = checkpoints.load_weights(tmp_path)
    assert {x.dtype for x in jax.tree.leaves(weights.params)} == {jnp.dtype("float32")}
    assert 0.5 < lines(tmp_path)[-1]["denoiser/loss"] < 2


def test_evaluation_in_the_loop_measures_the_averaged_weights(config, tmp_path):
    """A decay of one keeps them where they began; the rate takes the others far off."""
    config.num_steps, config.eval_every, config.eval_examples = 2, 2, 20
    config.ema.update(decay=1.0, warmup=False)
    config.optimizers.denoiser = dict(name="sgd", learning_rate=0.5)
    loop.train(config, tmp_path)
    (value,) = [x["test/denoiser/loss"] for x in lines(tmp_path) if len(x) == 3]
    (phase,) = phases.build(config)
    weights = checkpoints.load_weights(tmp_path)
    losses = evaluation.make_losses(phase.method, phase.mesh)
    averaged, raw = (
        evaluation.Evaluator(
            phase.method, {}, params, {}, mesh=phase.mesh, batch_size=8, seed=0
        ).values(losses, phase.dataset.test, 20)["denoiser/loss"]
        for params in (weights.averaged(), weights.params)
    )
    averaged, raw = (evaluation.summary(*x)["value"] for x in (averaged, raw))
    assert value == pytest.approx(averaged, rel=1e-5)
    assert abs(raw - averaged) > 0.01


@pytest.mark.parametrize(
    "change, words",
    [
        ({"method": "diffusion.dppm"}, "'diffusion.ddpm'"),
        ({"data.batch_size": 9, "accumulate": 2}, "8 and 10"),
        ({"data.name": "tfds:nothing"}, "tfds build nothing"),
        ({"model.network.featurs": 8}, "'features'"),
        ({"model.network.multipliers": (1, 1, 1, 1, 1)}, "16x16"),
        ({"likelihood.num_samples": 5}, "config.likelihood has no field"),
        ({"sampler.nam": "ddim"}, "'name'"),
        ({"optimizers.denoiser.bb1": 0.5}, "'b1'"),
        ({"ema.networks": ("unet",)}, "denoiser"),
        ({"mesh.fsdp": 3}, "devices"),
        ({"method": "diffusion._gaussian"}, "diffusion.ddpm"),
        ({"num_steps": 0}, "at least 1 to train"),
        ({"checkpoint": {"every": 5}}, "config.checkpoint.best_metric is not there"),
        (
            {"phases": ({"num_steps": None},)},
            "num_steps must be a whole number, got None",
        ),
        ({"model.network.scale_shift": "no"}, "must be True or False, got 'no'"),
        ({"eval_every": 1, "eval_examples": 0}, "eval_examples must be at least 1"),
        ({"log_every": 0}, "config.log_every must be at least 1, got 0"),
        ({"eval_features": "cnn"}, "needs config.eval_every and config.eval_samples"),
        (
            {"eval_features": "cnm", "eval_every": 1, "eval_samples": 9},
            "did you mean 'cnn'",
        ),
        ({"checkpoint.best_mode": "mim"}, "did you mean 'min'"),
        ({"ema.decay": 1.5}, "at most 1"),
        ({"optimizers.denoiser": {"name": "adam"}}, "learning_rate"),
        ({"sharding_rules": ((".*", "larges"),)}, "neither 'largest' nor a tuple"),
        ({"sharding_rules": (("(", "largest"),)}, "pairs"),
        ({"phases": (5,)}, "one dict of overrides"),
        ({"phases": ({"data": {"bath_size": 4}},)}, "bath_size"),
    ],
)
def test_errors_come_before_any_compilation(config, tmp_path, change, words):
    for path, value in change.items():
        *parents, name = path.split(".")
        target = config
        for parent in parents:
            target = target[parent]
        with target.unlocked():
            target[name] = value
    with pytest.raises(ConfigError, match=words):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_too_little_memory_leaves_what_was_saved_and_says_what_to_change(tmp_path):
    """The second phase's activations are 2^18 x 50,000 floats, 52 GB, several times."""
    config = recipes.get("vae_digits")
    config.model.network.features = (50_000,)
    config.checkpoint.every = config.log_every = 1
    config.phases = (
        {"num_steps": 1, "data.batch_size": 8},
        {"num_steps": 1, "data.batch_size": 2**18},
    )
    with pytest.raises(loop.OutOfMemoryError, match=r"step 1 is saved") as error:
        loop.train(config, tmp_path)
    assert "config.accumulate" in str(error.value)
    assert "config.remat=True" in str(error.value)
    assert checkpoints.load_weights(tmp_path).step == 1
