"""The table of families in its tiny form, on the digits."""

import json

import numpy as np
import pytest

from benchmarks import tradeoff
from genjax.config import phases


def run(monkeypatch, folder, *words):
    """The command's words, in this process."""
    flags = ["--data=digits", "--tiny", f"--workdir={folder}", *words]
    monkeypatch.setattr("sys.argv", ["tradeoff.py", *flags])
    monkeypatch.setattr(tradeoff.runtime, "start", lambda: None)  # It has started.
    tradeoff.main()


def test_rows_are_measured_kept_and_shared(
    tmp_path, untrained_classifier, monkeypatch, capsys
):
    """DDIM samples from DDPM's run; a run that goes on keeps the rows it has."""
    folder = tmp_path / "table"
    run(monkeypatch, folder, "--methods", "vae")
    vae = json.loads((folder / "tradeoff.json").read_text())["rows"]["vae"]
    assert np.isfinite(list(vae["growth"]["exponents"].values())).all()
    for spent in vae["growth"]["seconds_an_image"].values():
        assert len(spent) == 3 and min(spent) > 0
    monkeypatch.setattr(tradeoff, "growth", lambda *_: vae["growth"])
    run(monkeypatch, folder, "--resume", "--methods", "ddim")
    capsys.readouterr()
    report = json.loads((folder / "tradeoff.json").read_text())
    vae, ddim = report["rows"]["vae"], report["rows"]["ddim"]
    assert list(report["rows"]) == ["vae", "ddim"]  # As in the table.
    assert not (folder / "ddim").exists() and (folder / "ddpm").is_dir()
    assert ddim["sampler"]["name"] == "ddim"
    assert vae["steps"] == [2] and vae["parameters"] == 3382
    for found in (vae, ddim):
        assert found["density"] == "bound" and found["bits_per_dim"]["value"] > 0
        assert found["protocol"]["num_samples"] == 16
        assert "fewer than 2048" in found["protocol"]["warnings"][0]
    monkeypatch.setattr(tradeoff, "train", lambda *_: pytest.fail("trained again"))
    run(monkeypatch, folder, "--resume", "--methods", "ddpm", "vae")
    lines = capsys.readouterr().out.splitlines()
    rows = json.loads((folder / "tradeoff.json").read_text())["rows"]
    assert rows["ddpm"]["sampler"]["name"] == "ddpm"
    assert {key: rows[key] for key in report["rows"]} == report["rows"]
    assert [line.split("|")[1].strip() for line in lines if "|" in line] == [
        "method", "---", "VAE", "DDPM (given the class)",
        "DDIM, 50 steps (given the class)",
    ]  # fmt: skip
    assert (folder / "tradeoff.md").read_text().splitlines() == lines
    assert (folder / "tradeoff.png").is_file()
    with pytest.raises(SystemExit, match="add --resume"):
        run(monkeypatch, folder)


def test_time_is_shared_by_phases_and_warm_ups_are_cut():
    """A tenth of a phase's steps at most; the recipe itself is left alone."""
    recipe = tradeoff.recipe(tradeoff.ENTRIES["vq_prior"], "digits")
    config = tradeoff.lasting(recipe, [700, 90])
    assert [phase.num_steps for phase in phases(config)] == [700, 90]
    last = phases(config)[-1]
    assert last.optimizers.prior.warmup_steps == 9
    assert recipe.optimizers.prior.warmup_steps == 100
    assert config.checkpoint.every == 790


def test_those_of_black_and_white_model_256_levels_instead():
    entries = tradeoff.ENTRIES
    pixelcnn = tradeoff.recipe(entries["pixelcnn"], "tfds:mnist")
    assert pixelcnn.model.output.to_dict() == {"name": "categorical"}
    vae = tradeoff.recipe(entries["vae"], "tfds:mnist")
    assert vae.model.decoder == "discretized_logistic" and vae.model.latent_features
    with pytest.raises(SystemExit, match=r"no recipe configs\.vae_nothing"):
        tradeoff.recipe(entries["vae"], "tfds:nothing")
