"""Evaluations that cannot be meant are refused, and doubtful ones are marked."""

import dataclasses
import importlib
import json

import jax.numpy as jnp
import numpy as np
import pytest

from genjax import data, images
from genjax.config import ConfigError, base_config
from genjax.metrics import features
from genjax.metrics.classes import inception_score
from genjax.metrics.frechet import (
    distance_of_samples,
    frechet_distance,
    frechet_infinity,
    pixel_distance,
)
from genjax.metrics.kernel import kernel_distance, squared_mmd
from genjax.metrics.moments import moments
from genjax.metrics.neighbours import memorisation, prdc
from genjax.train import evaluation, loop, quality, reports, sharding, tables
from genjax.types import Method

GOOD = np.random.default_rng(0).standard_normal((20, 3))
EYE = np.eye(3)


def spoilt(value: float) -> np.ndarray:
    x = GOOD.copy()
    x[7, 1] = value
    return x


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "measure", [distance_of_samples, squared_mmd, prdc, kernel_distance]
)
def test_features_that_are_not_finite_are_refused(measure, value):
    """In both places, and with the first example that is bad."""
    options = {"subset_size": 20} if measure is kernel_distance else {}
    for pair in ((spoilt(value), GOOD), (GOOD, spoilt(value))):
        with pytest.raises(ValueError, match="1 of 20 examples have a NaN"):
            measure(*pair, **options)


@pytest.mark.parametrize(
    "measure, words",
    [
        (lambda: frechet_distance(np.zeros(3), EYE, np.zeros(4), np.eye(4)), "one D"),
        (
            lambda: frechet_distance(np.zeros(3), EYE * np.nan, np.zeros(3), EYE),
            "finite",
        ),
        (
            lambda: frechet_distance(
                np.zeros(3), EYE, np.zeros(3), EYE + np.eye(3, k=1)
            ),
            "symmetric",
        ),
        (lambda: distance_of_samples(GOOD, GOOD[:, :2]), "one D"),
        (lambda: distance_of_samples(GOOD[:1], GOOD), "two examples"),
        (lambda: distance_of_samples(GOOD[:0], GOOD), "one example or more"),
        (lambda: frechet_infinity(GOOD, moments(GOOD), (5, 21)), "from 2 to 20"),
        (lambda: squared_mmd(GOOD, GOOD[:, :2]), "differ in size"),
        (lambda: squared_mmd(GOOD, GOOD[:1]), "two examples"),
        (lambda: prdc(GOOD, GOOD[:, :2]), "differ in size"),
        (lambda: prdc(GOOD, GOOD[:5]), "more examples"),
        (lambda: memorisation(GOOD, GOOD[:, :2], GOOD), "differ in size"),
        (lambda: inception_score(np.full((9, 4), np.nan)), "sum to 1"),
        (lambda: inception_score(np.full((9, 4), 0.3)), "sum to 1"),
        (lambda: inception_score(np.full((9, 4), 0.25)), "from 1 to 9"),
    ],
)
def test_measures_refuse_what_they_cannot_compare(measure, words):
    with pytest.raises(ValueError, match=words):
        measure()


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 8, 8, 1)),  # Floats, as where images lie in [-1, 1].
        np.full((4, 8, 8, 1), 256, np.int32),
        np.full((4, 8, 8, 1), -1, np.int32),
        np.zeros((4, 9, 8, 1), np.uint8),
    ],
)
def test_images_of_another_range_or_size_are_refused(wrong):
    with pytest.raises(ValueError, match=r"from 0 to 255|differ in shape"):
        pixel_distance(wrong, np.zeros((4, 8, 8, 1), np.uint8))


def test_a_singular_covariance_has_its_distance():
    """Of D = 3 dimensions two vary: the third adds the square of its shift alone."""
    flat, shift = GOOD * [1, 1, 0], np.array([0, 0, 2.0])
    assert distance_of_samples(flat, flat + shift) == pytest.approx(4, abs=1e-6)


@pytest.fixture(scope="module")
def digits():
    options = base_config().data
    options.name = "digits"
    return data.load(options)


@pytest.fixture
def judge(digits, tmp_path, monkeypatch):
    """By the first twelve pixels; the logits are as many of them."""
    monkeypatch.setenv("GENJAX_CACHE_DIR", str(tmp_path / "cache"))

    def fn(params, pixels):
        x = images.to_float(pixels).reshape(len(pixels), -1)[:, 20:32]
        return x * params["scale"], x

    params = {"scale": jnp.float32(1)}
    network = features.FeatureNetwork("pixels", "0" * 12, "none", params, fn)
    return quality.Quality(network, digits, "test")


def few(judge, num):
    """The judge, of the first so many real images."""
    columns = {k: v[:num] for k, v in judge.dataset.test.columns.items()}
    split = data.sources.InMemory("few", num, lambda: columns)
    return dataclasses.replace(
        judge, dataset=dataclasses.replace(judge.dataset, test=split)
    )


def test_the_judge_refuses_what_cannot_be_compared(judge):
    real = judge.dataset.test.columns["image"]
    for samples, words in (
        (real[:0], "expected uint8"),
        (real[:1], "two samples at least, got 1"),
        (real.astype(np.float32), "expected uint8"),
        (real[:, :7], "cannot be compared with images"),
        (real.repeat(3, axis=-1), "cannot be compared with images"),
    ):
        for measure in (judge.measure, judge.distance):
            with pytest.raises(ConfigError, match=words):
                measure(samples)
    with pytest.raises(ConfigError, match="a label for each of 40 samples, got 39"):
        judge.measure(real[:40], np.zeros(39, int))
    with pytest.raises(ConfigError, match="two real images at least, got 1"):
        few(judge, 1).measure(real[:40])
    with pytest.raises(ConfigError, match="no test split"):
        alone = dataclasses.replace(judge.dataset, test=None)
        dataclasses.replace(judge, dataset=alone).measure(real[:40])


def test_a_network_that_gives_no_numbers_is_refused(judge):
    params = {"scale": jnp.float32(jnp.nan)}
    network = dataclasses.replace(judge.network, params=params)
    broken = dataclasses.replace(judge, network=network)
    with pytest.raises(
        ConfigError, match="cannot be measured: features must be finite"
    ):
        broken.measure(judge.dataset.test.columns["image"][:40])


def test_few_images_are_marked(judge):
    """Fewer than 2,048, no more than there are dimensions, too few for neighbours."""
    assert judge.protocol(5000)["warnings"] == []
    assert len(judge.protocol(40)["warnings"]) == 1
    words = "\n".join(judge.protocol(5)["warnings"])
    for part in ("5 samples are fewer than 2048", "5 samples in 12 dim", "more than 5"):
        assert part in words
    words = "\n".join(few(judge, 12).protocol(5000)["warnings"])
    assert "12 real images are fewer than 2048" in words
    assert "12 real images in 12 dimensions is singular" in words


def test_doubtful_samples_are_marked(digits):
    real = digits.test.columns["image"]
    assert evaluation.doubts(real, digits) == []
    assert "64 samples in 64 dimensions" in evaluation.doubts(real[:64], digits)[0]
    assert "range [0, 255]" in evaluation.doubts(real // 128, digits)[0]
    assert "all the same" in evaluation.doubts(real[:1].repeat(99, 0), digits)[0]
    points = data.load({"name": "synthetic:moons"})
    assert "2 samples in 2" in evaluation.doubts(np.eye(2), points)[0]
    with pytest.raises(ConfigError, match=r"cannot be measured.*NaN"):
        evaluation.of_samples(np.full((9, 2), np.nan), points)


def test_a_report_carries_the_marks(digits, monkeypatch, tmp_path):
    """Also that a result is no number; the file is what people quote."""
    config = base_config()
    config.data.update(name="digits", shape=(8, 8, 1), num_classes=10)

    def nothing(params, model_state, key, batch):
        return jnp.full(len(batch["image"]), jnp.nan), {}

    method = Method(init=None, log_likelihood=nothing)
    model = tables.Model(method, config, {}, {}, sharding.all_devices())
    drawn = digits.test.columns["image"][:9] // 200
    monkeypatch.setattr(tables.Model, "samples", lambda *_: (drawn, {}))
    report = reports.whole(model, None, num_samples=9, num=20)
    report.write(tmp_path, "evaluation")
    words = json.loads((tmp_path / "evaluation.json").read_text())["protocol"][
        "warnings"
    ]
    for part in ("9 samples in 64 dimensions", "range", "nll is nan"):
        assert any(part in warning for warning in words)
    with pytest.raises(ConfigError, match="not finite for 20 of 20"):
        reports.whole(model, None, num=20, outliers="synthetic:blobs")


def test_a_run_that_could_not_be_measured_does_not_start(tmp_path):
    """One real image in a folder, and samples to be compared with it."""
    from PIL import Image

    for name in ("train/a.png", "train/b.png", "test/c.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), len(name)).save(path)
    config = importlib.import_module("configs.vae_digits").get_config("tiny")
    config.data.update(name=f"folder:{tmp_path / 'images'}", batch_size=2)
    config.update(eval_every=2, eval_samples=4)
    with pytest.raises(ConfigError, match="the data have one"):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
