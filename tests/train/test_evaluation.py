"""What is measured of a split and of samples, on methods that are plain functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.special import logsumexp
from scipy.stats import mannwhitneyu

from genjax.config import ConfigError, base_config, overrides
from genjax.metrics.likelihood import in_bits_per_dim
from genjax.train import evaluation, phases, sampling, sharding, writers
from genjax.types import Method


def dataset(name="digits"):
    config = base_config()
    config.data.name = name
    config, found = phases.resolve(config)
    return config, found


def evaluator(method, options=None, batch_size=64):
    mesh = sharding.all_devices()
    return evaluation.Evaluator(
        method, options or {}, {}, {}, mesh=mesh, batch_size=batch_size, seed=0
    )


def flat(batch):
    return batch["image"].reshape(len(batch["image"]), -1) / 255.0


def brightness(params, model_state, key, batch, *, scale=1.0):
    """A "likelihood" that prefers bright images, with one part."""
    nats = scale * flat(batch).sum(axis=1)
    return nats, {"dark": -nats}


def test_likelihood_and_its_parts_are_means_over_the_split():
    """100 images in batches of 64: the short last one counts by its images."""
    _, digits = dataset()
    method = Method(init=None, log_likelihood=brightness)
    results = evaluator(method, {"scale": 2.0}).split(digits.test, 100)
    expected = 2 * flat({"image": digits.test.columns["image"][:100]}).sum(1)
    assert set(results) == {"nats/nll", "nats/dark"}
    nll = results["nats/nll"]
    assert nll["value"] == pytest.approx(-expected.mean(), rel=1e-5)
    error = expected.std(ddof=1) / 10
    assert nll["standard_error"] == pytest.approx(error, rel=1e-4)
    assert nll["examples"] == 100
    alone = in_bits_per_dim(evaluator(method, {"scale": 2.0}).split(digits.test, 1), 64)
    assert set(alone["bits_per_dim/nll"]) == {"value", "examples"}


def test_options_of_the_likelihood_are_held_to_its_signature():
    method = Method(init=None, log_likelihood=brightness)
    evaluation.check_likelihood(method, {"scale": 3.0})
    with pytest.raises(ConfigError, match="did you mean 'scale'"):
        evaluation.check_likelihood(method, {"scal": 3.0})
    with pytest.raises(ConfigError, match="Its fields: none"):
        evaluation.check_likelihood(Method(init=None), {"scale": 3.0})


def test_outliers_are_told_by_the_likelihood():
    """Against Mann and Whitney's U of the values themselves."""
    _, digits = dataset()
    method = Method(init=None, log_likelihood=brightness)
    found = evaluator(method).outliers(digits.test, digits.train, 90)
    inside, outside = (
        flat({"image": split.columns["image"][:90]}).sum(1)
        for split in (digits.test, digits.train)
    )
    u = mannwhitneyu(inside, outside).statistic / 90**2
    assert found["outliers/auroc"]["value"] == pytest.approx(u, abs=1e-3)
    with pytest.raises(ConfigError, match="no likelihood and no energy"):
        evaluator(Method(init=None)).outliers(digits.test, digits.train, 90)


def test_outliers_are_told_by_the_energy_where_there_is_no_likelihood():
    """An energy ranks as minus itself as a likelihood does."""
    _, digits = dataset()
    splits = digits.test, digits.train, 90
    told = evaluator(Method(init=None, log_likelihood=brightness)).outliers(*splits)
    dark = Method(init=None, energy=lambda p, s, batch: 3 - flat(batch).sum(1))
    assert evaluator(dark).outliers(*splits) == told


def test_outliers_of_a_method_with_labels_are_told_by_all_classes_together():
    """Whatever labels the data have; the energy of (x, y) is x's y-th moment."""
    _, digits = dataset()

    def energy(params, model_state, batch):
        return (flat(batch) ** (1 + batch["label"][:, None] % 3)).sum(1)

    method = Method(init=None, energy=energy, cond=("label",))
    images = [split.columns["image"][:90] for split in (digits.test, digits.train)]
    blind = [[{"image": image} for image in split] for split in images]
    found = evaluator(method).outliers(*blind, 90, num_classes=3)
    powers = np.arange(1, 4)[:, None, None]
    scores = [
        logsumexp(-(flat({"image": split}) ** powers).sum(2), axis=0)
        for split in images
    ]
    u = mannwhitneyu(*scores).statistic / 90**2
    assert found["outliers/auroc"]["value"] == pytest.approx(u, abs=1e-3)


def test_foreign_data_must_have_the_shape_of_the_own():
    config, _ = dataset()
    assert len(evaluation.foreign(config, "synthetic:blobs", "test")) == 4000
    with pytest.raises(ConfigError, match=r"\(2,\).*\(8, 8, 1\)"):
        evaluation.foreign(config, "synthetic:ring", "test")


def test_latents_are_probed_on_held_out_examples():
    """Pixels as latents read digits well; 3 of 64 never change in this data."""
    _, digits = dataset()
    method = Method(init=None, encode=lambda p, s, k, batch: flat(batch))
    found = evaluator(method).latents(digits.train, digits.test, 1000, 200)
    pixels = flat({"image": digits.test.columns["image"][:200]})
    units = int((pixels.var(0) > 0.01).sum())
    assert found["latents/active_units"]["value"] == units < 64
    assert 0.85 < found["latents/probe_accuracy"]["value"] < 1
    blind = Method(init=None, encode=lambda p, s, k, batch: 0 * flat(batch)[:, :3])
    found = evaluator(blind).latents(digits.train, digits.test, 1000, 200)
    assert found["latents/active_units"]["value"] == 0
    assert found["latents/probe_accuracy"]["value"] < 0.25


def test_a_probe_needs_two_classes():
    _, digits = dataset()
    method = Method(init=None, encode=lambda p, s, k, batch: flat(batch))
    with pytest.raises(ConfigError, match=r"--probe=1: .* one class"):
        evaluator(method).latents(digits.train, digits.test, 1, 50)


def test_codes_and_missing_encoders_cannot_be_probed(monkeypatch):
    _, digits = dataset()
    codes = Method(init=None, encode=lambda p, s, k, b: flat(b).astype(jnp.int32))
    # What cannot be is said before anything is encoded.
    monkeypatch.setattr(evaluation.Evaluator, "values", None)
    for method, words in [(codes, "to codes"), (Method(init=None), "no encoder")]:
        with pytest.raises(ConfigError, match=words):
            evaluator(method).latents(digits.train, digits.test, 50, 50)


def test_points_are_drawn_measured_and_plotted_as_points(tmp_path):
    """A method whose samples are the centre (2, 0) of one of the ring's eight modes."""
    _, ring = dataset("synthetic:ring")

    def sample(params, model_state, keys, cond):
        noise = jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)
        return jnp.array([2.0, 0.0]) + 0.02 * noise

    draw = sampling.make_draw(
        Method(init=None, sample=sample), sharding.all_devices(), 30
    )
    points = draw({}, {}, seed=0, num=100, cond={})
    assert points.shape == (100, 2) and points.dtype == np.float32
    assert 0.01 < points.std(axis=0).max() < 0.03
    found = evaluation.of_samples(points, ring)
    assert found["samples/modes"]["value"] == 1
    assert found["samples/good_share"]["value"] > 0.9
    writer = writers.Writer(tmp_path)
    writer.grid(7, points)
    writer.close()
    picture = np.asarray(Image.open(tmp_path / "samples" / "00000007.png"))
    blue = (picture[..., 2] > picture[..., 0] + 50).mean()
    assert picture.shape == (600, 600, 3) and blue > 1e-4


def test_the_data_itself_has_a_small_frechet_distance():
    _, digits = dataset()
    images = digits.train.columns["image"]
    near = evaluation.of_samples(images, digits)["samples/frechet"]["value"]
    far = evaluation.of_samples(255 - images, digits)["samples/frechet"]["value"]
    assert 0 < near < 0.05 * far


def test_words_of_the_command_line_become_values():
    words = ["--likelihood.num_samples=500", "--likelihood.a=none", "--likelihood.b=xy"]
    likelihood = {"num_samples": 500, "a": None, "b": "xy"}
    assert overrides(words, "likelihood") == {"likelihood": likelihood}
    found = overrides([*words, "--sampler.a.b=x=(1,)"], "likelihood", "sampler")
    assert found == {"likelihood": likelihood, "sampler": {"a.b": "x=(1,)"}}
    for word in (
        "--likelihod.a=1",
        "--likelihood.a",
        "x",
        "likelihood.a=1",
        "--sampler=1",
    ):
        with pytest.raises(ConfigError, match="unknown argument"):
            overrides([word], "likelihood")


def test_points_of_no_mixture_are_measured_by_their_moments():
    """A shift leaves the covariance, so the distance is the shift's squared length."""
    _, moons = dataset("synthetic:moons")
    points = moons.test.columns["point"]
    found = evaluation.of_samples(points + np.float32([3, 4]), moons)
    assert found["samples/frechet"]["value"] == pytest.approx(25, rel=1e-4)
