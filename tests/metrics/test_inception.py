"""The FID's Inception against the PyTorch port of it, with equal random weights."""

import hashlib
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inception_weights import pictures, random_weights, torch_shapes
from PIL import Image
from safetensors.numpy import load_file, save_file
from scipy.ndimage import map_coordinates

from genjax.metrics import inception
from genjax.metrics.features import load_inception

# What torch-fidelity 0.4.0 makes of `pictures()` by `random_weights()`, with torch
# 2.13: every 256th feature, every 126th logit, and the features' norms.
FEATURES = [
    [0.02054, 2.67131, 0.00726, 1.02207, 0.4045, 6.39766, 0.01604, 1.0582],
    [0.08177, 2.73156, 0.00334, 0.9422, 0.38485, 6.72029, 0.00905, 1.31048],
]
LOGITS = [
    [-3.9983, -10.0777, -2.02111, 0.63674, -1.83526, -2.0601, 5.0348, 1.31625],
    [-3.86016, -9.60995, -2.18798, 0.71926, -2.13863, -1.98075, 4.82373, 1.47358],
]
NORMS = [149.8985, 150.0665]


def test_features_and_probabilities_are_those_of_the_pytorch_port(tmp_path):
    path = tmp_path / "inception.safetensors"
    save_file(random_weights(torch_shapes()), path)
    net = load_inception(path, "tensorflow")
    assert (net.distance, net.resize, len(net.hash)) == ("fid", "tensorflow", 12)
    features, probabilities = net(pictures())
    assert features.shape == (2, 2048) and probabilities.shape == (2, 1008)
    np.testing.assert_allclose(features[:, ::256], FEATURES, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), NORMS, atol=1e-3)
    ratios = probabilities[:, ::126] / probabilities[:, :1]
    expected = np.array(LOGITS) - np.array(LOGITS)[:, :1]
    np.testing.assert_allclose(np.log(ratios), expected, atol=1e-4)
    grey = pictures()[..., :1]
    assert jax.eval_shape(net.fn, net.params, grey)[0].shape == (2, 2048)
    with pytest.raises(ValueError, match=r"\['clean', 'pytorch', 'tensorflow'\]"):
        load_inception(path, "bicubic")


@pytest.mark.parametrize(
    "resize, place, scale",
    [
        (inception.resize_tensorflow, lambda i, s: i / s, lambda x: x / 128 - 1),
        (
            inception.resize_pytorch,
            lambda i, s: (i + 0.5) / s - 0.5,
            lambda x: x / 127.5 - 1,
        ),
    ],
)
def test_bilinear_resizing_takes_pixels_where_its_library_does(resize, place, scale):
    """By SciPy's interpolation at the places that each library defines."""
    x = pictures()
    rows, columns = (place(np.arange(299), 299 / n) for n in x.shape[1:3])
    grid = np.meshgrid(rows, columns, indexing="ij")
    expected = [
        [
            map_coordinates(one[..., c] * 1.0, grid, order=1, mode="nearest")
            for c in (0, 1, 2)
        ]
        for one in x
    ]
    expected = scale(np.moveaxis(np.array(expected), 1, -1))
    np.testing.assert_allclose(resize(jnp.asarray(x)), expected, atol=1e-4)


@pytest.mark.parametrize("side", [32, 400])
def test_clean_resizing_is_pillows_bicubic_in_floats(side):
    """Larger and smaller than 299; the latter antialiases."""
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (1, side, side, 3)).astype(np.uint8)
    expected = [
        np.asarray(
            Image.fromarray(x[0, ..., c].astype(np.float32)).resize(
                (299, 299), Image.Resampling.BICUBIC
            )
        )
        for c in range(3)
    ]
    expected = (np.clip(np.stack(expected, -1), 0, 255) - 128) / 128
    np.testing.assert_allclose(
        inception.resize_clean(jnp.asarray(x))[0], expected, atol=1e-3
    )


def test_weights_of_another_network_are_refused():
    weights = random_weights(torch_shapes())
    with pytest.raises(ValueError, match=r"expected fc\.weight to make \(2048, 1008\)"):
        inception.from_torch({**weights, "fc.weight": np.zeros((1000, 2048))})
    with pytest.raises(ValueError, match=r"found \(3, 2, 1\)"):
        inception.from_torch({**weights, "fc.weight": np.zeros((1, 2, 3))})
    del weights["Mixed_7c.branch1x1.conv.weight"]
    with pytest.raises(ValueError, match=r"named 'Mixed_7c\.branch1x1\.conv\.weight'"):
        inception.from_torch(weights)


def test_a_file_of_weights_is_loaded_and_what_is_none_is_named(tmp_path):
    weights = random_weights(torch_shapes())
    path = tmp_path / "inception.safetensors"
    with pytest.raises(FileNotFoundError, match=r"SHA-256 6726825d.*github\.com"):
        inception.load(path)
    save_file(weights, path)
    found = inception.load(path)["Mixed_6e"]["branch7x7_2"]["conv"]["kernel"]
    expected = weights["Mixed_6e.branch7x7_2.conv.weight"]
    np.testing.assert_array_equal(found, expected.transpose(2, 3, 1, 0))
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"is no \.safetensors file"):
        inception.load(path)


def test_only_the_file_that_everybody_has_is_converted(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="needs the bench extra")
    path = tmp_path / "weights.pth"
    torch.save({"a.weight": torch.ones(3, dtype=torch.float64)}, path)
    with pytest.raises(ValueError, match="another network or a broken download"):
        inception.convert(path)
    own = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "PTH_SHA256", own)
    found = load_file(inception.convert(path))
    assert found["a.weight"].dtype == np.float32 and found["a.weight"].sum() == 3


def test_code_in_a_pth_is_not_run(tmp_path, monkeypatch):
    """A pickle that would write a file, under the hash that is asked for."""
    pytest.importorskip("torch", reason="needs the bench extra")
    path, canary = tmp_path / "weights.pth", tmp_path / "canary"

    class Evil:
        def __reduce__(self):
            return (open, (str(canary), "w"))

    path.write_bytes(pickle.dumps({"a": Evil()}))
    own = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "PTH_SHA256", own)
    with pytest.raises(pickle.UnpicklingError):
        inception.convert(path)
    assert not canary.exists()
