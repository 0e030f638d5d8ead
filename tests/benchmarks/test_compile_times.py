"""Lowering and compiling recipes, and the table of how long that takes."""

import json

import jax
import recipes

from benchmarks import compile_times
from genjax import methods
from genjax.train import phases


def test_the_trainers_step_is_lowered_and_compiled():
    """Parameters and lines against a step that is initialised and lowered here."""
    (row,) = compile_times.measure("nice_moons", "tiny")
    (phase,) = phases.build(recipes.get("nice_moons"))
    key, batch = phases.example(phase)
    params, _ = jax.eval_shape(methods.load(phase.config).init, key, batch)
    assert row["parameters"] == sum(x.size for x in jax.tree.leaves(params))
    state, batches = phases.abstract_state(phase), phases.abstract_batch(phase)
    lowered = phases.jit_train_step(phase, state).lower(state, batches, key)
    assert row["stablehlo_lines"] == len(lowered.as_text().splitlines())
    assert min(row["lower_seconds"], row["compile_seconds"]) > 0


def test_phases_are_told_apart_and_recipes_skipped_with_a_reason(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # Where no recipe finds a folder or a run.
    monkeypatch.setattr(compile_times, "of_step", lambda phase: {"end": phase.end})
    assert compile_times.measure("vq_prior_digits", "tiny") == [
        {"recipe": "vq_prior_digits, phase 0", "end": 2},
        {"recipe": "vq_prior_digits, phase 1", "end": 4},
    ]
    (row,) = compile_times.measure("ddpm_folder", "tiny")
    assert row["skipped"] == "folder:images must be a folder of images; there is none"
    (row,) = compile_times.measure("guidance_digits", "tiny")
    assert "has no checkpoint" in row["skipped"]


def test_rows_are_kept_and_sorted_by_time(monkeypatch, tmp_path, capsys):
    """The slowest first, what was skipped last; rows that are there are kept."""
    asked, seconds = [], {"a": 1.0, "b": 3.0, "c": 2.0}

    def rows(name, variant, minutes):
        asked.append((name, variant, minutes))
        if name == "guidance":
            return [{"recipe": name, "skipped": "it trains nothing"}]
        timed = dict(lower_seconds=0.5, compile_seconds=seconds[name])
        timed["compile_processor_seconds"] = 1.0
        return [{"recipe": name, "parameters": 1, "stablehlo_lines": 2, **timed}]

    def run(*words):
        monkeypatch.setattr("sys.argv", ["compile_times", *words, f"--out={out}"])
        compile_times.main()
        lines = capsys.readouterr().out.splitlines()
        assert {line.count("|") for line in lines} == {7}
        return [line.split("|")[1].strip() for line in lines[2:]]

    out = tmp_path / "times.json"
    monkeypatch.setattr(compile_times, "in_own_process", rows)
    assert run("guidance", "a", "b") == ["`b`", "`a`", "guidance"]
    assert run("a", "c", "--resume", "--minutes=9") == ["`b`", "`c`", "`a`", "guidance"]
    assert [name for name, *_ in asked] == ["guidance", "a", "b", "c"]
    assert asked[-1] == ("c", "", 9)
    report = json.loads(out.read_text())
    assert set(report["recipes"]) == {"guidance", "a", "b", "c"} and report["device"]
    # Rows of another variant are not kept, nor any unless that is asked for.
    assert run("a", "--resume", "--variant=tiny") == ["`a`"]
    assert asked[-1] == ("a", "tiny", 30)
    assert run("b", "--variant=tiny") == ["`b`"]
