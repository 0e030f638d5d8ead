"""The three commands, as a user types them."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import recipes
from PIL import Image

from genjax import data
from genjax.train import quality

ROOT = Path(__file__).parents[1]


def command(*words: str, **options) -> subprocess.CompletedProcess:
    """Runs `python <words>` in the root of the project."""
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, **options
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    """A finished tiny run."""
    path = tmp_path_factory.mktemp("runs") / "digits"
    done = command(
        "train.py", "--config=configs/ddpm_digits.py:tiny", f"--workdir={path}"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "python sample.py" in done.stderr
    return path


def test_training_leaves_what_it_promises(workdir):
    assert json.loads((workdir / "config.json").read_text())["data"]["shape"] == [
        8,
        8,
        1,
    ]
    (line,) = (workdir / "metrics.jsonl").read_text().splitlines()
    assert {"step", "denoiser/loss", "denoiser/grad_norm", "images_per_second"} <= set(
        json.loads(line)
    )
    assert Image.open(workdir / "samples" / "00000002.png").size[0] >= 512
    assert list((workdir / "tensorboard").iterdir())
    assert (workdir / "checkpoints" / "2").is_dir()


def test_sampling_writes_arrays_grid_and_files(workdir, tmp_path):
    done = command(
        "sample.py", f"--workdir={workdir}", "--num=5", "--label=7,3", "--png",
        f"--out={tmp_path}", "--sampler.name=ddim", "--sampler.eta=0.5",
        "--sampler.num_steps=3", "--guidance_scale=2", "--raw",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(tmp_path / "samples.npz") as file:
        assert file["images"].shape == (5, 8, 8, 1) and file["images"].dtype == np.uint8
        assert file["label"].tolist() == [7, 3, 7, 3, 7]
        last = file["images"][4, ..., 0]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "000004.png")), last)
    assert (tmp_path / "grid.png").exists()


def test_image_i_depends_on_the_seed_and_i_alone(workdir, tmp_path):
    images = {}
    for name, flags in {
        "whole": ["--num=10", "--batch_size=10"],
        "parts": ["--num=7", "--batch_size=3"],
        "other": ["--num=7", "--seed=1"],
    }.items():
        out = tmp_path / name
        done = command("sample.py", f"--workdir={workdir}", f"--out={out}", *flags)
        assert done.returncode == 0, done.stderr[-3000:]
        with np.load(out / "samples.npz") as file:
            images[name] = file["images"].astype(int)
    # Another batch size may round a sum otherwise: one level of 255 at most.
    assert np.abs(images["whole"][:7] - images["parts"]).max() <= 1
    assert np.abs(images["whole"][:7] - images["other"]).max() > 50


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--label=12"], "0..9"),
        (["--sampler.nam=ddim"], "did you mean 'name'"),
        (["--sampler.name=dim"], "'ddpm' or 'ddim'"),
        (["--step=1"], "no checkpoint of step 1"),
        (["--step=best"], "best_metric"),
        (["--sampler.num_steps=0"], "num_steps"),
        (["--sampler.num_steps=2.5"], "a whole number or None, got 2.5"),
        (["--sampler.eta=abc"], "a number, got 'abc'"),
        (["--sampler.clip=yes"], "True or False, got 'yes'"),
    ],
)
def test_sampling_errors_say_what_to_change(workdir, tmp_path, flags, words):
    done = command("sample.py", f"--workdir={workdir}", f"--out={tmp_path}", *flags)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert words in done.stderr


@pytest.mark.parametrize(
    "what, flags, shape",
    [
        ("interpolate", ["--num=2", "--points=3", "--path=slerp"], (2, 3)),
        ("interpolate", ["--between=prior", "--num=1", "--label=4"], (1, 9)),
        ("reconstruct", ["--num=3"], (3,)),
        ("arithmetic", ["--classes=7,1,4"], (4,)),
        ("arithmetic", ["--exemplars=1,5/2,3/4,6"], (4,)),
        ("traverse", ["--axes=0,63", "--points=4"], (2, 4)),
    ],
)
def test_walks_write_a_picture_and_arrays(workdir, tmp_path, what, flags, shape):
    done = command(
        "sample.py", f"--workdir={workdir}", f"--out={tmp_path}", f"--what={what}",
        *flags,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(tmp_path / f"{what}.npz") as file:
        assert file["images"].shape == (*shape, 8, 8, 1)
        assert file["images"].dtype == np.uint8
        assert file["latents"].shape == (*shape, 8, 8, 1)
        assert file["index"].ndim == file["label"].ndim == 1
    assert min(Image.open(tmp_path / f"{what}.png").size) >= 48


@pytest.mark.parametrize(
    "flags, code, words",
    [
        (["--what=sampels"], 1, "did you mean 'samples'"),
        (
            ["--what=manifold"],
            1,
            "exactly 2 numbers, but this one's shape is (8, 8, 1)",
        ),
        (["--what=samples", "--points=3"], 1, "--what=samples has no field 'points'"),
        (["--what=traverse", "--axes=0,b"], 2, "invalid numbers value: '0,b'"),
        (["--what=reconstruct", "--png"], 2, "--png is for samples"),
    ],
)
def test_walking_errors_say_what_to_change(workdir, tmp_path, flags, code, words):
    done = command("sample.py", f"--workdir={workdir}", f"--out={tmp_path}", *flags)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert words in done.stderr


def test_evaluation_reports_the_bound_and_its_protocol(workdir):
    done = command("evaluate.py", f"--workdir={workdir}", "--num=20", "--batch_size=16")
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((workdir / "evaluation.json").read_text())
    protocol, results = report["protocol"], report["results"]
    assert protocol["split"] == "test" and protocol["step"] == 2
    assert protocol["ema"] == ["denoiser"] and protocol["bound"]
    parts = [
        results[f"bits_per_dim/{x}"]["value"] for x in ("L_T", "L_{1..T-1}", "L_0")
    ]
    total = results["bits_per_dim/nll"]
    assert total["value"] == pytest.approx(sum(parts)) and total["examples"] == 20
    assert results["nats/nll"]["value"] == pytest.approx(
        total["value"] * 64 * np.log(2)
    )
    assert "bits_per_dim/nll" in done.stdout and "step: 2" in done.stdout


@pytest.fixture
def cache(untrained_classifier) -> Path:
    """With a classifier of the digits in it."""
    quality.make_network("cnn", data.load({"name": "digits"}), "digits")
    return untrained_classifier


def test_evaluation_by_features_says_how_it_measured(workdir, cache):
    words = ["evaluate.py", f"--workdir={workdir}", "--num=16", "--features=cnn"]
    done = command(*words, "--num_samples=40", "--reference=test")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "warning: 40 samples are fewer than 2048" in done.stderr
    report = json.loads((workdir / "evaluation.json").read_text())
    assert report["results"]["samples/fd_digits_cnn"]["examples"] == 40
    protocol = report["protocol"]
    assert (protocol["reference_split"], protocol["reference_num"]) == ("test", 296)
    assert protocol["sampler"] and protocol["ema"] == ["denoiser"]
    assert f"network_hash: {protocol['network_hash']}" in done.stdout
    done = command(*words, "--what=distortions", "--reference=test")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((workdir / "distortions.json").read_text())
    assert found["protocol"]["network_hash"] == protocol["network_hash"]
    assert "| swirl |" in done.stdout and (workdir / "distortions.png").is_file()
    done = command(*words[:2], "--what=study", "--num_samples=6", "--seconds=0.5")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "6 pairs, 0.5 s each" in done.stdout
    assert (workdir / "study.html").read_text().startswith("<!")
    # The network came from the cache, and the statistics went there.
    assert sorted(path.suffix for path in cache.iterdir()) == [".npz", ".safetensors"]


@pytest.mark.parametrize(
    "flags, code, words",
    [
        (["--what=distortions"], 2, "asks for --features"),
        (["--features=cnn"], 2, "say how many by --num_samples"),
        (["--what=study", "--probe=9"], 1, "--what=study has no field 'probe'"),
        (["--sampler.num_stepz=9"], 1, "did you mean 'num_steps'"),
        (["--lpips=alex", "--reconstruct=2"], 1, "alexnet-owt-7be5be79.pth"),
        (["--features=inception", "--num_samples=9"], 1, "SHA-256 6726825d"),
    ],
)
def test_evaluation_errors_say_what_to_change(workdir, cache, flags, code, words):
    done = command("evaluate.py", f"--workdir={workdir}", *flags)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert words in done.stderr


def test_the_same_command_again_says_finished(workdir):
    done = command(
        "train.py", "--config=configs/ddpm_digits.py:tiny", f"--workdir={workdir}"
    )
    assert done.returncode == 0 and "Already finished" in done.stderr


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--config.data.batch_size=16"], "batch_size: 8 there, 16 here"),
        (["--config.num_stepz=16"], "did you mean 'num_steps'"),
        (["--config.data.bath_size=16"], "did you mean 'data.batch_size'"),
        (["--config.model.network.featurs=16"], "did you mean 'features'"),
        (["--config.optimizers.denoiser.clip_nrom=1.0"], "did you mean 'clip_norm'"),
    ],
)
def test_training_errors_say_what_to_change(workdir, flags, words):
    done = command(
        "train.py",
        "--config=configs/ddpm_digits.py:tiny",
        f"--workdir={workdir}",
        *flags,
    )
    assert done.returncode == 1 and words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_misspelt_variant_is_refused(workdir):
    words = ["train.py", "--config=configs/ddpm_digits.py:tin", f"--workdir={workdir}"]
    done = command(*words)
    assert done.returncode == 1 and "did you mean 'tiny'" in done.stderr


def test_fields_that_the_recipe_leaves_out_can_be_set(tmp_path):
    done = command(
        "train.py", "--config=configs/ddpm_digits.py:tiny", f"--workdir={tmp_path}",
        "--config.model.network.dropout=0.25", "--config.sampler.eta=0.5",
        "--config.optimizers.denoiser.clip_norm=1.0", "--config.sample_every=0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model"]["network"]["dropout"] == 0.25
    assert saved["sampler"]["eta"] == 0.5
    assert saved["optimizers"]["denoiser"]["clip_norm"] == 1.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_same_command_goes_on(tmp_path, number):
    words = [
        "train.py", "--config=configs/ddpm_digits.py:tiny", f"--workdir={tmp_path}",
        "--config.num_steps=100000", "--config.log_every=10", "--config.sample_every=0",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    log, deadline = tmp_path / "metrics.jsonl", time.monotonic() + 120
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 75, error[-3000:]
    (saved,) = (int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    last = json.loads(log.read_text().splitlines()[-1])["step"]
    assert saved == last > 0
    if number == signal.SIGINT:
        return  # What is saved is the same.
    words[3] = f"--config.num_steps={saved + 5}"
    done = command(*words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"from step {saved}" in done.stderr
    assert (tmp_path / "checkpoints" / str(saved + 5)).is_dir()


def test_an_energy_completes_denoises_and_tells_outliers(tmp_path):
    run = tmp_path / "run"
    done = command(
        "train.py", "--config=configs/igebm_digits.py:tiny", f"--workdir={run}"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for what in ("complete", "denoise"):
        done = command(
            "sample.py", f"--workdir={run}", f"--out={tmp_path}", f"--what={what}",
            "--num=2",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        with np.load(tmp_path / f"{what}.npz") as file:
            real = file["real"] if what == "denoise" else file["real"][:, None]
            changed = file["images"] != real
        assert changed.any()
        if what == "complete":
            assert not changed[..., :4, :, :].any()
    done = command(
        "evaluate.py", f"--workdir={run}", "--num=40", "--outliers=synthetic:blobs"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((run / "evaluation.json").read_text())["results"]
    assert 0 <= results["outliers/auroc"]["value"] <= 1


def test_guidance_joins_two_trained_runs(workdir, tmp_path):
    """noisy_classifier_digits and ddpm_digits, then guidance_digits from both."""
    classifier = tmp_path / "classifier"
    done = command(
        "train.py",
        "--config=configs/noisy_classifier_digits.py:tiny",
        f"--workdir={classifier}",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    sources = [{"workdir": str(path)} for path in (workdir, classifier)]
    joined = tmp_path / "joined"
    words = ["train.py", "--config=configs/guidance_digits.py:tiny"]
    absent = {"workdir": str(tmp_path / "absent")}
    done = command(*words, f"--workdir={joined}", f"--config.init_from=({absent},)")
    assert done.returncode == 1 and "absent" in done.stderr
    done = command(
        *words, f"--workdir={joined}", f"--config.init_from=({sources[0]},{sources[1]})"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    done = command(
        "sample.py", f"--workdir={joined}", "--num=3", f"--out={tmp_path / 'out'}",
        "--sampler.name=ddim", "--guidance_scale=3",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    done = command("evaluate.py", f"--workdir={classifier}", "--num=32")
    assert "classifier/accuracy" in done.stdout


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_is_whole(name):
    """The full recipe differs from the tiny one, and says how to run it."""
    full, tiny = recipes.get(name, ""), recipes.get(name)
    assert full.method == tiny.method and full.to_json() != tiny.to_json()
    text = (ROOT / "configs" / f"{name}.py").read_text()
    assert f"--config=configs/{name}.py" in text
