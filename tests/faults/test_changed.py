"""Runs that go on with another config, or from a checkpoint that is not theirs."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipes
from runs import arrays, finish, logged, words

from genjax.config import ConfigDict, ConfigError, from_plain, plain
from genjax.train import checkpoints, loop, phases, restore, sums, tables

FEATURES = "model.network.features"


def make(**fields: object) -> ConfigDict:
    """Two players' worth of names: a VAE with an average of its decoder alone."""
    config = recipes.get("vae_digits")
    config.update(log_every=1, sample_every=0, eval_every=0)
    config.ema.networks = ("decoder",)
    config.optimizers.vae.schedule = "constant"
    config.update_from_flattened_dict(fields)
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of two steps."""
    workdir = tmp_path_factory.mktemp("changed") / "run"
    assert loop.train(make(), workdir)
    return workdir


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of it."""
    return shutil.copytree(trained, tmp_path / "run")


def changes(workdir: Path) -> list[dict]:
    path = workdir / "changes.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def untouched(monkeypatch):
    """Neither an array is read nor weights are drawn or a step compiled."""
    leave_untouched(monkeypatch)


def leave_untouched(monkeypatch) -> None:

    def never(*args, **options):
        raise AssertionError("too late")

    for owner, name in (
        (checkpoints.Checkpoints, "read"),
        (restore, "start_state"),
    ):
        monkeypatch.setattr(owner, name, never)


def test_another_structure_is_refused_with_ten_names_and_shapes(run, untouched):
    before = (run / "config.json").read_text()
    with pytest.raises(ConfigError) as error:
        loop.train(make(**{FEATURES: (32,), "num_steps": 4}), run)
    first, field, title, *listed = str(error.value).splitlines()
    assert "--workdir" in first and "--partial" in first
    assert field == "  model.network.features: [16] there, [32] here"
    assert title == "These arrays do not fit:"
    assert listed[0] == (
        "  params/decoder/mlp/dense_0/bias: float32[16] in the checkpoint, "
        "float32[32] here"
    )
    # 6 weights, 3 averages and 12 moments have the width in their shape.
    assert len(listed) == 11 and listed[10] == "  and 11 more"
    assert (run / "config.json").read_text() == before
    assert not (run / "changes.jsonl").exists()


def test_another_method_is_refused_even_in_part(run, untouched):
    config = recipes.get("wgan_gp_ring")
    config.sample_every = config.eval_every = 0
    for partial in (False, True):
        before = (run / "config.json").read_text()
        with pytest.raises(ConfigError) as error:
            loop.train(config, run, partial=partial)
        told = str(error.value)
        assert "params/critic/out/kernel: float32[16, 1] here, missing" in told
        assert "params/decoder/mlp/dense_0/bias: float32[16] in the checkp" in told
        assert ("no weight of the checkpoint fits" in told) == partial
        assert (run / "config.json").read_text() == before


def rename_layer(state):
    decoder = dict(state.params["decoder"])
    decoder["mlp_renamed"] = decoder.pop("mlp")
    return state.replace(params={**state.params, "decoder": decoder})


def drop_average(state):
    return state.replace(ema_params={})


def add_network(state):
    extra = {"critic": {"kernel": jnp.zeros((3, 4))}}
    return state.replace(params={**state.params, **extra})


def halve(state):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), state.params["encoder"])
    return state.replace(params={**state.params, "encoder": half})


OTHERS = {
    rename_layer: (
        "params/decoder/mlp/out/bias: float32[64] here, missing in the checkpoint",
        "params/decoder/mlp_renamed/out/bias: float32[64] in the checkpoint, not here",
    ),
    drop_average: (
        "ema_params/decoder/mlp/out/bias: float32[64] here, missing in the checkpoint",
    ),
    add_network: ("params/critic/kernel: float32[3, 4] in the checkpoint, not here",),
    halve: (
        "params/encoder/mlp/out/bias: bfloat16[6] in the checkpoint, float32[6] here",
    ),
}


COUNTERS = {
    name: jnp.int32(value)
    for name, value in {"step": 3, "bad_steps": 1, "skipped": 5}.items()
}


def save_changed(run: Path, change) -> None:
    """Puts a checkpoint of step 3 there, as another version would have written it."""
    config = make()
    (phase,) = phases.build(config)
    kept = checkpoints.Checkpoints(run, phase.config.checkpoint)
    state = kept.restore(2, phases.abstract_state(phase))
    state = change(state.replace(**COUNTERS))
    position = kept.position(2)
    kept.save(
        state, 3, config=phase.config, phase=position["phase"], data=position["data"]
    )
    kept.close()


@pytest.mark.parametrize("change", OTHERS)
def test_a_checkpoint_that_is_not_the_configs_is_refused(change, run, monkeypatch):
    save_changed(run, change)
    leave_untouched(monkeypatch)
    with pytest.raises(ConfigError, match="checkpoint of step 3 does not") as error:
        loop.train(make(num_steps=4), run)
    for line in OTHERS[change]:
        assert f"  {line}\n" in str(error.value)
    assert "--partial to go on with what fits" in str(error.value)


@pytest.mark.parametrize("change", OTHERS)
def test_what_fits_is_taken_to_the_bit_and_the_rest_is_fresh(change, run, capsys):
    """Or cast; a new average begins at its weights. Optimiser and counters fit here."""
    save_changed(run, change)
    (phase,) = phases.build(make())
    kept = checkpoints.Checkpoints(run, phase.config.checkpoint)
    whole = kept.restore(2, phases.abstract_state(phase))
    state = restore.resume(kept, 3, phase, partial=True)
    kept.close()
    fresh = phases.start_state(phase, None)
    expected = whole.replace(**COUNTERS)
    if change is rename_layer:
        params = {**whole.params, "decoder": fresh.params["decoder"]}
        expected = expected.replace(params=params)
    elif change is drop_average:
        averages = {"decoder": whole.params["decoder"]}
        expected = expected.replace(ema_params=averages)
    elif change is halve:
        there = halve(whole).params["encoder"]
        cast = jax.tree.map(lambda x: x.astype(jnp.float32), there)
        expected = expected.replace(params={**whole.params, "encoder": cast})
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    told = capsys.readouterr().err
    for line in OTHERS[change]:
        assert f"  {line}\n" in told
    (line,) = changes(run)
    assert line["step"] == 3 and set(line["arrays"]) >= {
        text.split(":")[0] for text in OTHERS[change]
    }


def test_the_command_goes_on_in_part_and_is_then_the_new_run(run):
    """Another optimiser begins anew, and a new average; the weights go on."""
    old = arrays(run)
    flags = {"num_steps": 3, "ema__networks": "('decoder','encoder')"}
    flags |= {"optimizers__vae__schedule": "constant", "optimizers__vae__name": "sgd"}
    command = words(run, **flags, optimizers__vae__learning_rate=0.0)
    code, said = finish([*command, "--partial"])
    assert code == 0, said[-3000:]
    assert "Going on from step 2 with what fits" in said and "and 11 more" in said
    assert "The optimiser of player 'vae' begins anew." in said
    new = arrays(run)
    for path, value in old.items():
        if path.startswith("['weights']['params']"):  # The rate is zero.
            np.testing.assert_array_equal(new[path], value)
    weights = checkpoints.load_weights(run)
    assert weights.step == 3 and set(weights.ema_params) == {"decoder", "encoder"}
    assert weights.config.optimizers.vae.name == "sgd"
    config, lost = changes(run)
    assert config["step"] == lost["step"] == 2
    assert config["config"]["optimizers.vae.name"] == ["adam", "sgd"]
    assert config["config"]["num_steps"] == [2, 3]
    assert lost["arrays"]["opt_state/vae/0/count"] == ["int32[]", None]
    assert [row["step"] for row in logged(run)] == [1, 2, 3]
    kept = json.loads((run / "config.json").read_text())
    assert kept["optimizers"]["vae"]["name"] == "sgd"


def test_a_rate_may_change_in_part_with_all_that_was_learnt(run, monkeypatch):
    """Every array fits, so that all are taken: Adam's moments and count too."""
    monkeypatch.setattr(restore, "take_what_fits", None)
    config = make(**{"num_steps": 3, "optimizers.vae.learning_rate": 1e-5})
    assert loop.train(config, run, partial=True)
    found = arrays(run)
    assert found["['training']['opt_state']['vae'][0]['count']"] == 3
    assert logged(run)[-1]["vae/learning_rate"] == pytest.approx(1e-5)


def test_soft_changes_are_told_stored_and_kept(run, capsys):
    for fields in ({"num_steps": 3, "log_every": 3}, {"num_steps": 4}):
        assert loop.train(make(**fields), run)
    assert "Going on with log_every: 1 before, 3 now." in capsys.readouterr().err
    first, second = changes(run)
    assert first["step"] == 2 and second["step"] == 3
    assert first["config"] == {"log_every": [1, 3], "num_steps": [2, 3]}
    assert second["config"] == {"log_every": [3, 1], "num_steps": [3, 4]}
    assert first["time"] < second["time"]
    assert [checkpoints.load_weights(run, s).config.num_steps for s in (3, 4)] == [3, 4]
    assert json.loads((run / "config.json").read_text())["num_steps"] == 4


@pytest.mark.parametrize("name", ["hopfield_digits", "ac_gan_digits", "glow_moons"])
def test_weights_fit_the_config_beside_them_whatever_the_batch_decides(name):
    """Patterns are the first batch; a critic pairs its rows; points have no pixels."""
    (phase,) = phases.build(recipes.get(name))
    state = phases.abstract_state(phase)
    fields = ("params", "ema_params", "model_state")
    weights = {field: getattr(state, field) for field in fields}
    restore.check_weights(0, from_plain(plain(phase.config)), weights)
    weights["model_state"] = {**state.model_state, "more": state.step}
    with pytest.raises(ConfigError, match=r"model_state/more: int32\[\] in the"):
        restore.check_weights(0, phase.config, weights)


def edit(run: Path, **fields: object) -> None:
    """Changes the config that lies beside the weights."""
    (path,) = (run / "checkpoints" / "2" / "config").glob("metadata")
    values = json.loads(path.read_text())
    for name, value in fields.items():
        *sections, last = name.split("__")
        section = values
        for step in sections:
            section = section[step]
        section[last] = value
    path.write_text(json.dumps(values))
    path = path.parents[1] / "sums" / "metadata"  # Not by damage, but on purpose.
    found = {**json.loads(path.read_text())["sums"], "config": sums.of_json(values)}
    path.write_text(json.dumps({"sums": found, "own": sums.of_json(found)}))


@pytest.mark.parametrize(
    "fields, line",
    [
        (
            {"model__network__features": [32]},
            "params/decoder/mlp/dense_0/bias: float32[16] in the checkpoint, float32[3",
        ),
        (
            {"ema__networks": ["decoder", "encoder"]},
            "ema_params/encoder/mlp/out/bias: float32[6] here, missing in the",
        ),
        (
            {"ema__networks": []},
            "ema_params/decoder/mlp/out/bias: float32[64] in the checkpoint, not here",
        ),
    ],
)
def test_weights_that_do_not_fit_the_config_beside_them_are_refused(
    run, fields, line, monkeypatch
):
    """As sample.py and evaluate.py load them, before they are read or compiled."""
    assert tables.Model.load(run).step == 2
    edit(run, **fields)
    monkeypatch.setattr(checkpoints.ocp.args, "StandardRestore", None)  # Reads arrays.
    with pytest.raises(ConfigError, match="weights of step 2 do not fit") as error:
        tables.Model.load(run)
    assert line in str(error.value)


def test_a_run_to_start_from_lists_what_it_does_not_bring(run, tmp_path, capsys):
    """With another latent: the layers beside it. Nothing at all is an error."""
    config = make(**{"model.latent_features": 5, "num_steps": 1})
    config.init_from = ({"workdir": str(run)},)
    assert loop.train(config, tmp_path / "next")
    told = capsys.readouterr().err
    assert "Carried 5 arrays over; 3 stay as they were:" in told
    assert "  ['encoder']['mlp']['out']['bias']\n" in told
    config = recipes.get("made_digits")
    config.init_from = ({"workdir": str(run)},)
    with pytest.raises(ConfigError, match="brings nothing"):
        loop.train(config, tmp_path / "other")
