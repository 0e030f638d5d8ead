"""Feature networks on the real digits."""

import jax
import numpy as np
import pytest

from genjax import data
from genjax.config import base_config
from genjax.metrics import features
from genjax.metrics.frechet import distance_of_samples


@pytest.fixture(scope="module")
def digits():
    options = base_config().data
    options.name = "digits"
    dataset = data.load(options)
    return dataset.train.columns, dataset.test.columns


@pytest.fixture(scope="module")
def network(digits, tmp_path_factory):
    """The network and its cache; the steps are worth compiling well, and fewer do."""
    cache = tmp_path_factory.mktemp("cache")
    jax.config.update("jax_disable_most_optimizations", False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "MIN_STEPS", 200)
        net = features.train_feature_network("digits", *digits, cache=cache)
    jax.config.update("jax_disable_most_optimizations", True)
    return net, cache


def test_a_classifier_learns_the_digits(network, digits):
    """An SVM reads 98 to 99 % of these."""
    net, _ = network
    assert net.accuracy > 0.96
    assert net.distance == "fd_digits_cnn"
    found, p = net(digits[1]["image"], batch_size=100)
    assert found.shape == (296, 128) and p.shape == (296, 10)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    assert (p.argmax(1) == digits[1]["label"]).mean() == net.accuracy
    np.testing.assert_allclose(found[:7], net(digits[1]["image"][:7])[0], atol=1e-4)


def test_its_distance_sees_what_is_wrong_with_digits(network, digits):
    """Held-out digits are nearer to the training set than noisy or few classes."""
    net, _ = network
    train, test = digits
    random = np.random.default_rng(0)
    noisy = test["image"] + 60 * random.standard_normal(test["image"].shape)
    noisy = np.clip(noisy, 0, 255).astype(np.uint8)
    few = test["image"][test["label"] < 5]
    real = net(train["image"])[0]
    fresh, noisy, few = (
        distance_of_samples(net(x)[0], real) for x in (test["image"], noisy, few)
    )
    assert 3 * fresh < min(noisy, few)


def test_the_cache_is_found_by_data_and_recipe(network, digits, monkeypatch):
    net, cache = network
    (path,) = cache.iterdir()
    assert path.name.startswith("digits_cnn_") and path.suffix == ".safetensors"
    monkeypatch.setattr(features, "_fit", lambda *args: pytest.fail("trained anew"))
    again = features.train_feature_network("digits", *digits, cache=cache)
    assert (again.hash, again.accuracy) == (net.hash, net.accuracy)
    other = {**digits[0], "label": digits[0]["label"][::-1]}
    with pytest.raises(pytest.fail.Exception, match="trained anew"):
        features.train_feature_network("digits", other, cache=cache)
    path.write_bytes(path.read_bytes()[:1000])  # Not to be read: trained anew.
    with pytest.raises(pytest.fail.Exception, match="trained anew"):
        features.train_feature_network("digits", *digits, cache=cache)


def test_a_fingerprint_sees_names_shapes_and_values():
    params = {"a": {"b": np.ones((2, 3))}}
    same = features.fingerprint({"a": {"b": np.ones((2, 3), np.float32)}})
    assert features.fingerprint(params) == same
    others = [
        {"a": {"c": np.ones((2, 3))}},
        {"a": {"b": np.ones((3, 2))}},
        {"a": {"b": np.ones((2, 3)) + 1e-6}},
    ]
    assert same not in [features.fingerprint(other) for other in others]


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((2, 4, 4, 1)),
        np.zeros((2, 4, 4, 4), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros((0, 4, 4, 1), np.uint8),
    ],
)
def test_what_are_no_images_is_refused(pixels):
    with pytest.raises(ValueError, match="expected uint8 images"):
        features.check_images(pixels)


def test_one_class_is_refused():
    train = {"image": np.zeros((2, 8, 8, 1), np.uint8), "label": np.zeros(2, int)}
    with pytest.raises(ValueError, match="no classes to tell apart"):
        features.train_feature_network("blank", train)
