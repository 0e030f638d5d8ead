"""Samples against kept statistics, by a random network."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from lpips_weights import backbone_weights, linear_weights
from PIL import Image
from safetensors.numpy import save_file

from genjax import data, images
from genjax.config import ConfigError, base_config
from genjax.metrics import features, lpips
from genjax.train import quality, reports, sharding, studies, tables
from genjax.types import Method


@pytest.fixture(scope="module")
def digits():
    options = base_config().data
    options.name = "digits"
    return data.load(options)


@pytest.fixture(scope="module")
def network():
    """Random features, and logits that are the first ten pixels."""
    w = 0.2 * np.random.default_rng(0).standard_normal((64, 12)).astype(np.float32)

    def fn(params, pixels):
        x = images.to_float(pixels).reshape(len(pixels), -1)
        return jnp.tanh(x @ params["w"]), 20 * x[:, :10]

    params = {"w": w}
    return features.FeatureNetwork(
        "random", features.fingerprint(params), "none", params, fn
    )


@pytest.fixture
def model(digits):
    """Of the digits; what it draws is the test's."""
    config = base_config()
    config.data.name, config.data.shape = "digits", (8, 8, 1)
    config.data.num_classes = 10
    return tables.Model(Method(init=None), config, {}, {}, sharding.all_devices())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GENJAX_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_reference_statistics_are_those_of_the_split(
    digits, network, cache, monkeypatch
):
    """In chunks, against NumPy on all at once; no more rows are kept than asked."""
    monkeypatch.setattr(quality, "CHUNK", 400)
    monkeypatch.setattr(quality, "KEPT", 900)
    found = quality.load_reference(network, digits.train)
    columns = digits.train.columns
    x = network(columns["image"])[0]
    assert found.moments.count == len(x) == 1501
    np.testing.assert_allclose(found.moments.mean, x.mean(0), atol=1e-5)
    covariance = np.cov(np.float64(x), rowvar=False)
    np.testing.assert_allclose(found.moments.covariance, covariance, atol=1e-6)
    np.testing.assert_allclose(found.features, x[:900], atol=1e-5)
    np.testing.assert_array_equal(found.labels, columns["label"][:900])


def test_statistics_are_kept_under_a_hash_of_all_that_they_depend_on(
    digits, network, cache, monkeypatch
):
    found = quality.load_reference(network, digits.test)
    (path,) = cache.iterdir()
    assert found.hash in path.name
    with monkeypatch.context() as patch:
        patch.setattr(
            features.FeatureNetwork, "__call__", lambda *_: pytest.fail("ran")
        )
        again = quality.load_reference(network, digits.test)
        np.testing.assert_array_equal(again.moments.scatter, found.moments.scatter)
        np.testing.assert_array_equal(again.labels, found.labels)
    path.write_bytes(path.read_bytes()[:-500])
    again = quality.load_reference(network, digits.test)
    np.testing.assert_array_equal(again.features, found.features)
    params = {"w": network.params["w"] + 1e-3}
    other = features.FeatureNetwork(
        "random", features.fingerprint(params), "none", params, network.fn
    )
    hashes = {found.hash, quality.load_reference(other, digits.test).hash}
    hashes.add(quality.load_reference(network, digits.train).hash)
    assert len(hashes) == len(list(cache.iterdir())) == 3


def test_the_data_themselves_are_perfect_and_half_of_the_classes_are_not(
    digits, network, cache
):
    judge = quality.Quality(network, digits)
    train = digits.train.columns
    found = {k: v["value"] for k, v in judge.measure(train["image"]).items()}
    assert found["samples/fd_random"] == pytest.approx(0, abs=1e-6)
    assert judge.distance(train["image"]) == pytest.approx(0, abs=1e-6)
    assert found["samples/precision"] == found["samples/coverage"] == 1
    assert abs(found["samples/kd_random"]) < 0.01
    assert found["samples/fd_random_infinity"] < 0.1
    bright = np.full((60, 8, 8, 1), 255, np.uint8)
    bright[:, 0, 3] = np.arange(60)[:, None]
    worse = {k: v["value"] for k, v in judge.measure(bright).items()}
    assert worse["samples/fd_random"] > 1 and worse["samples/coverage"] == 0
    # Of equal logits the first is read.
    assert worse["samples/missing_classes"] == 9
    doubts = judge.protocol(60)["warnings"]
    assert len(doubts) == 1 and "fewer than 2048" in doubts[0]
    assert "singular" in judge.protocol(12)["warnings"][1]
    assert judge.protocol(2048)["warnings"] == []


@pytest.mark.parametrize(
    "samples, words",
    [
        (np.zeros((5, 8, 8, 1)), "expected uint8 images"),
        (np.zeros((5, 9, 8, 1), np.uint8), "cannot be compared with images"),
    ],
)
def test_what_cannot_be_compared_is_refused(digits, network, samples, words):
    with pytest.raises(ConfigError, match=words):
        quality.Quality(network, digits).measure(samples)


def test_networks_that_cannot_be_had_are_explained(digits, cache):
    def make(name, dataset=digits, **options):
        options = {"resize": "clean", **options}
        return quality.make_network(name, dataset, "digits", **options)

    with pytest.raises(ConfigError, match=r"SHA-256 6726825d.*features='cnn'"):
        make("inception")
    with pytest.raises(ConfigError, match="clean"):
        make("inception", resize="cleam")
    cache.mkdir()
    (cache / "bad.safetensors").write_bytes(b"bad")
    with pytest.raises(ConfigError, match=r"is no \.safetensors"):
        make("inception", weights=str(cache / "bad.safetensors"))
    points = data.load({"name": "synthetic:ring"})
    with pytest.raises(ConfigError, match="needs images"):
        make("cnn", points)
    with pytest.raises(ConfigError, match="needs labelled data"):
        make("cnn", dataclasses.replace(digits, num_classes=None))


def test_damage_is_seen_and_grows(model, digits, network, cache):
    """Also contamination; a distance that sees nothing is called not monotone."""
    judge = quality.Quality(network, digits)
    study = studies.distortions(model, judge, num=200, foreign="synthetic:blobs")
    found = study.results["distortions"]
    assert len(found) == 6 and study.results["examples"] == 200
    for name, entry in found.items():
        assert entry["monotone"], name
        assert study.results["undamaged"] < entry["distances"][0]
    assert len(study.lines) == 8 and "| swirl |" in "".join(study.lines)
    assert {p.shape[-1] for p in study.pictures.values()} == {3}
    assert study.protocol["split"] == "test"
    train = studies.distortions(model, judge, num=50, split="train")
    assert train.results["undamaged"] != study.results["undamaged"]

    def blind(params, pixels):
        features, logits = network.fn(params, pixels)
        return 0 * features + jnp.arange(12.0), logits

    unseeing = dataclasses.replace(network, hash="blind", fn=blind)
    study = studies.distortions(model, quality.Quality(unseeing, digits), num=200)
    assert len(study.results["distortions"]) == 5
    assert not any(x["monotone"] for x in study.results["distortions"].values())


def drawing(monkeypatch, samples, cond=None):
    """Lets models draw these."""
    monkeypatch.setattr(tables.Model, "samples", lambda *_: (samples, cond or {}))


def test_copies_are_found_beside_what_they_copy(
    model, digits, network, cache, monkeypatch
):
    train = digits.train.columns["image"]
    judge = quality.Quality(network, digits)
    drawing(monkeypatch, train[40:60])
    found = studies.neighbours(model, judge, num_samples=20)
    assert found.results["memorisation_pixels"] == 1
    assert found.results["memorisation_random"] == 1
    # Rows of the picture: a sample, three neighbours in pixels and three in features.
    height, width, _ = found.pictures["neighbours"].shape
    assert height > 10 * 48 and width > 7 * 48
    drawing(monkeypatch, digits.test.columns["image"])
    fresh = studies.neighbours(model, judge, num_samples=296)
    assert fresh.results["memorisation_pixels"] == pytest.approx(0.5)
    with pytest.raises(ConfigError, match="needs a test split"):
        alone = dataclasses.replace(digits, test=None)
        studies.neighbours(model, quality.Quality(network, alone), num_samples=9)


def test_distances_within_classes_are_told_apart(digits, network, cache):
    """Real images of each class but one, in whose place are those of another."""
    image, label = (digits.train.columns[name] for name in ("image", "label"))
    real = np.concatenate([image[label == (8 if c == 3 else c)] for c in range(10)])
    asked = np.repeat(
        np.arange(10), [(label == (8 if c == 3 else c)).sum() for c in range(10)]
    )
    judge = quality.Quality(network, digits)
    found = judge.measure(real, asked)
    values = [found[f"samples/fd_random_class_{c}"]["value"] for c in range(10)]
    others = np.delete(values, 3)
    assert others.max() < 1e-4 < 0.1 < values[3]
    mean = found["samples/fd_random_classes"]
    assert mean["value"] == pytest.approx(values[3] / 10, abs=1e-4)
    assert mean["examples"] == len(real)
    assert "samples/fd_random_classes" not in judge.measure(real)


def test_reconstructions_are_compared_in_pixels_and_by_features(
    digits, network, cache, model
):
    """A decoder that adds 51 of 255 to dark images: 0.4 where images lie in [-1, 1]."""

    def decode(params, model_state, latents, cond):
        return images.to_float(latents + 51)

    dark = digits.test.columns["image"] // 4
    source = [{"image": x} for x in dark]
    method = Method(init=None, encode=lambda *a: a[-1]["image"], decode=decode)
    judge = quality.Quality(network, digits)
    found = reports.reconstructions(
        dataclasses.replace(model, method=method), source, 40, judge
    )
    assert found["reconstructions/pixels_rms"]["value"] == pytest.approx(0.4, rel=1e-6)
    x, y = network(dark[:40])[0], network(dark[:40] + 51)[0]
    for order, name in ((1, "l1"), (2, "l2")):
        norms = np.linalg.norm(x - y, order, axis=1) / 12 ** (1 / order)
        entry = found[f"reconstructions/{name}_random"]
        assert entry["value"] == pytest.approx(norms.mean(), rel=1e-5)
        assert entry["examples"] == 40
    with pytest.raises(ConfigError, match="does not encode and decode"):
        reports.reconstructions(model, source, 40)


def test_lpips_of_the_cache_is_explained_where_it_is_missing(cache):
    with pytest.raises(ConfigError, match=r"(?s)lpips_alex.*alexnet-owt-7be5be79"):
        quality.make_lpips("alex")


def test_lpips_enlarges_small_images_and_goes_in_batches(cache):
    """The last of 52 pairs, of the second batch, against Pillow's enlargement."""
    cache.mkdir()
    weights = backbone_weights("alex") | linear_weights("alex")
    save_file(weights, cache / "lpips_alex.safetensors")
    x, y = np.random.default_rng(0).integers(256, size=(2, 52, 28, 28, 1), dtype="u1")
    y[0] = x[0]
    found = quality.make_lpips("alex")(x, y)
    assert found.shape == (52,) and abs(found[0]) < 1e-9 < found[1:].min()
    large = [
        np.asarray(Image.fromarray(z[51, ..., 0]).resize((64, 64), Image.BILINEAR))
        for z in (x, y)
    ]
    large = [np.float32(z)[None, ..., None] / 127.5 - 1 for z in large]
    expected = lpips.distance(lpips.from_torch(weights), *large)
    np.testing.assert_allclose(found[51], expected[0], rtol=0.02)  # Grey levels.


def test_a_study_shows_real_images_of_the_classes_drawn(model, digits, monkeypatch):
    labels = np.array([3, 3, 7], np.int32)
    drawn = np.full((3, 8, 8, 1), 7, np.uint8)
    drawing(monkeypatch, drawn, {"label": labels})
    seen = {}

    def page(real, fake, **options):
        seen.update(options, real=real, fake=fake)
        return "<html>"

    monkeypatch.setattr(studies, "study_page", page)
    report = studies.study(model, None, num_samples=3, seconds=0.25)
    test = digits.test.columns
    threes = np.flatnonzero(test["label"] == 3)[:2]
    seven = np.flatnonzero(test["label"] == 7)[:1]
    expected = test["image"][np.concatenate([threes, seven])]
    np.testing.assert_array_equal(seen["real"], expected)
    np.testing.assert_array_equal(seen["fake"], drawn)
    assert seen["seconds"] == 0.25 and seen["protocol"]["num_samples"] == 3
    assert report.pages == {"study": "<html>"}
    drawing(monkeypatch, np.zeros((297, 8, 8, 1), np.uint8))
    with pytest.raises(ConfigError, match="297 real images are needed, of 296"):
        studies.study(model, None, num_samples=297)


def test_places_are_evenly_spaced():
    """All, or from the first to the last: 0, 2.25, 4.5, 6.75, 9, rounded down."""
    np.testing.assert_array_equal(quality.spaced(10, 60), np.arange(10))
    np.testing.assert_array_equal(quality.spaced(10, 5), [0, 2, 4, 6, 9])
    np.testing.assert_array_equal(quality.spaced(60_000, 60_000), np.arange(60_000))


@pytest.mark.parametrize(
    "name, distance",
    [("tfds:mnist", "fd_mnist_cnn"), ("folder:/a b/my cats/", "fd_my_cats_cnn")],
)
def test_a_classifier_bears_the_name_of_the_data(
    digits, untrained_classifier, name, distance
):
    assert quality.make_network("cnn", digits, name).distance == distance
