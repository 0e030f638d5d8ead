"""LPIPS against torchmetrics and the authors' code, with equal random backbones."""

import functools
import hashlib
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inception_weights import pictures
from lpips_weights import backbone_weights, linear_weights, torch_features
from safetensors.numpy import load_file, save_file

from genjax.metrics import lpips

# What the authors' package, lpips 0.1.4, finds between `large_pictures()` and
# `damaged()` by `backbone_weights` and `linear_weights`, with torch 2.13.
DISTANCES = {"alex": [0.00359203, 0.033458066], "vgg": [0.005517262, 0.032315213]}
NETS = pytest.mark.parametrize("net", ["alex", "vgg"])


def large_pictures():
    """Smooth with sharp edges, float32 [2, 64, 80, 3] in [-1, 1]."""
    x = pictures().repeat(2, axis=1).repeat(2, axis=2)
    return (x / 127.5 - 1).astype(np.float32)


def damaged():
    """The same, the first with noise, the second moved aside."""
    noisy, moved = large_pictures()
    random = np.random.default_rng(0)
    noisy = np.clip(noisy + random.normal(0, 0.1, noisy.shape), -1, 1)
    return np.stack([noisy, np.roll(moved, 3, axis=1)]).astype(np.float32)


compiled = jax.jit(lpips.distance, static_argnames="net")


@pytest.fixture(scope="module", params=["alex", "vgg"])
def trial(request):
    """A network's name and its distance by random weights."""
    net = request.param
    params = lpips.from_torch(backbone_weights(net) | linear_weights(net), net)
    return net, functools.partial(compiled, jax.device_put(params), net=net)


def test_distances_are_those_of_the_authors_code(trial):
    net, fn = trial
    found = fn(large_pictures(), damaged())
    assert found.shape == (2,) and found.dtype == np.float32
    np.testing.assert_allclose(found, DISTANCES[net], rtol=1e-4)


def test_distances_are_symmetric_and_zero_only_between_equals(trial):
    _, fn = trial
    x, y = large_pictures(), damaged()
    found = fn(x, y)
    assert (found > 1e-3).all()
    np.testing.assert_allclose(fn(y, x), found, rtol=1e-5)
    np.testing.assert_allclose(fn(x, x), 0, atol=1e-10)


def test_grey_images_are_repeated(trial):
    _, fn = trial
    x, y = large_pictures()[..., :1], damaged()[..., :1]
    repeated = fn(x.repeat(3, axis=-1), y.repeat(3, axis=-1))
    np.testing.assert_allclose(fn(x, y), repeated, rtol=1e-6)


def test_features_that_are_off_have_no_length_and_a_finite_gradient():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(lpips.unit(x), [[0.6, 0.8], [0, 0]], rtol=1e-6)
    grad = jax.grad(lambda x: jnp.square(lpips.unit(x) - 0.1).sum())(x)
    assert np.isfinite(grad).all()


def by_hand():
    """Weights of which the first layer sees red and a constant, and others nothing.

    Features are (relu(r), 1) of the scaled red r of the pixel in the kernel's middle,
    with weights 2 and 5. All later features are off, which makes their norms 0.
    """
    params = lpips.from_torch(backbone_weights("alex") | linear_weights("alex"))
    params = jax.tree.map(np.zeros_like, params)
    first = params["features"]["0"]
    first["kernel"][5, 5, 0, 0], first["bias"][1] = 1, 1
    params["lin0"]["kernel"][0, 0, :2, 0] = 2, 5
    for place in ("3", "6", "8", "10"):
        params["features"][place]["bias"][:] = -1
    for i in (1, 2, 3, 4):
        params[f"lin{i}"]["kernel"][:] = 1
    return params


def test_one_layer_by_hand():
    """Red is 0.2 or 0.9 on the left; on the right it is equal.

    The 15 columns are of pixels 3, 7, ..., 59, of which 8 lie left of 32.
    """
    x = np.full((1, 64, 64, 3), 0.5)
    y = x.copy()
    x[:, :, :32, 0], y[:, :, :32, 0] = 0.2, 0.9
    u, v = (np.array([(red + 0.030) / 0.458, 1]) for red in (0.2, 0.9))
    u, v = u / np.linalg.norm(u), v / np.linalg.norm(v)
    expected = 8 / 15 * (2 * (u[0] - v[0]) ** 2 + 5 * (u[1] - v[1]) ** 2)
    found = compiled(by_hand(), jnp.float32(x), jnp.float32(y))
    np.testing.assert_allclose(found, [expected], rtol=1e-5)


def test_the_gradient_is_that_of_the_distance_by_hand():
    """For one red r everywhere; 0 at x = y, and finite where all features are off."""
    params, image = jax.device_put(by_hand()), jnp.zeros((1, 32, 32, 3))

    @jax.jit
    @jax.grad
    def grad(red, other, params):
        x, y = image.at[..., 0].set(red), image.at[..., 0].set(other)
        return lpips.distance(params, x, y)[0]

    def expected(red, other):
        r, s = (max((value + 0.030) / 0.458, 0) for value in (red, other))
        u, v = (np.array([t, 1]) / np.hypot(t, 1) for t in (r, s))
        slope = np.array([1, -r]) / np.hypot(r, 1) ** 3 / 0.458
        return 2 * ((u - v) * slope * [2, 5]).sum()

    np.testing.assert_allclose(grad(0.2, 0.9, params), expected(0.2, 0.9), rtol=1e-4)
    np.testing.assert_allclose(grad(0.9, -0.8, params), expected(0.9, -0.8), rtol=1e-4)
    assert grad(0.4, 0.4, params) == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="module")
def theirs():
    """torchmetrics' LPIPS by name, over the backbones without torchvision."""
    pytest.importorskip("torch", reason="needs the bench extra")
    pytest.importorskip("torchmetrics", reason="needs the bench extra")
    module = pytest.importorskip("torchmetrics.functional.image.lpips")
    short = {"alexnet": "alex", "vgg16": "vgg"}

    def features(net, pretrained=False):
        return torch_features(short[net])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_get_tv_model_features", features)
        yield {net: module._LPIPS(net=net) for net in ("alex", "vgg")}


def to_torch(x):
    import torch

    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A function that writes a network's two .pth, with the linear layers' real one.

    Their hashes are made those that are asked for.
    """
    torch = pytest.importorskip("torch", reason="needs the bench extra")
    metrics = pytest.importorskip("torchmetrics", reason="needs the bench extra")

    def write(net):
        backbone, linear = (tmp_path / name for name in lpips.FILES[net])
        weights = {k: torch.from_numpy(v) for k, v in backbone_weights(net).items()}
        torch.save(weights, backbone)
        folder = Path(metrics.__file__).parent / "functional/image/lpips_models"
        linear.write_bytes((folder / f"{net}.pth").read_bytes())
        own = hashlib.sha256(backbone.read_bytes()).hexdigest()
        monkeypatch.setitem(lpips.SHA256, backbone.name, own)
        return backbone, linear

    return write


@NETS
def test_converted_weights_find_the_distances_of_torchmetrics(
    net, files, theirs, tmp_path
):
    """With the authors' linear weights, down to the least images that torch takes."""
    out = tmp_path / "lpips.safetensors"
    lpips.convert(*files(net), net, out)
    params, random = lpips.load(out, net), np.random.default_rng(0)
    least = lpips.MIN_SIDE[net]
    pairs = [
        random.uniform(-1, 1, (2, 3, 64, 64, 3)),
        (large_pictures(), damaged()),
        random.uniform(-1, 1, (2, 2, least, 45, 3)),
    ]
    for pair in pairs:
        x, y = (np.float32(images) for images in pair)
        expected = theirs[net](to_torch(x), to_torch(y)).numpy().ravel()
        np.testing.assert_allclose(compiled(params, x, y, net), expected, rtol=2e-5)
    small = np.zeros((1, least - 1, 45, 3), np.float32)
    with pytest.raises(RuntimeError, match="too small"):
        theirs[net](to_torch(small), to_torch(small))


@NETS
def test_gradients_are_those_of_torchmetrics(net, theirs):
    """Up to the units that rounding turns on or off: in float64 it is 1e-10."""
    weights = {k: v.numpy() for k, v in theirs[net].state_dict().items() if "lin" in k}
    params = lpips.from_torch(backbone_weights(net) | weights, net)
    x, y = np.random.default_rng(0).uniform(-1, 1, (2, 2, 32, 40, 3)).astype(np.float32)
    x_torch = to_torch(x).requires_grad_()
    theirs[net](x_torch, to_torch(y)).sum().backward()
    expected = x_torch.grad.numpy().transpose(0, 2, 3, 1)
    grad = jax.jit(jax.grad(lambda x, y, p: lpips.distance(p, x, y, net).sum()))
    error = np.linalg.norm(grad(x, y, params) - expected)
    assert error < 5e-3 * np.linalg.norm(expected)
    assert np.abs(grad(y, y, params)).max() < 1e-6


def test_other_images_are_refused(trial):
    net, fn = trial
    x = np.zeros((2, 64, 64, 3), np.float32)
    for y in (x[:1], x[..., :1], x[:, :, :32], x[0]):
        with pytest.raises(ValueError, match=r"both \[B, H, W, C\]"):
            fn(x, y)
    for y in (x[0], x[..., :2], x[..., 0]):
        with pytest.raises(ValueError, match="with 1 or 3 channels"):
            fn(y, y)
    with pytest.raises(ValueError, match=r"float images in \[-1, 1\], got uint8"):
        fn(x, np.uint8(x))
    least = {"alex": 31, "vgg": 16}[net]
    small = x[:, : least - 1]
    with pytest.raises(ValueError, match=rf"{least}x{least}, got {least - 1}x64"):
        fn(small, small)
    with pytest.raises(ValueError, match=r"one of \['alex', 'vgg'\], got 'squeeze'"):
        lpips.distance({}, x, x, "squeeze")


def test_a_file_of_weights_is_loaded_and_what_is_none_is_named(tmp_path):
    weights = backbone_weights("alex") | linear_weights("alex")
    path = tmp_path / "lpips.safetensors"
    with pytest.raises(FileNotFoundError) as error:
        lpips.load(path)
    for part in (
        str(path),
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        "lpips/weights/v0.1/alex.pth (SHA-256 df73285e",
        "--net=alex",
        'features="cnn"',
    ):
        assert part in str(error.value)
    save_file(weights, path)
    params = lpips.load(path)
    np.testing.assert_array_equal(
        params["features"]["3"]["kernel"],
        weights["features.3.weight"].transpose(2, 3, 1, 0),
    )
    with pytest.raises(ValueError, match=r"lpips\.safetensors: expected .* of 'vgg'"):
        lpips.load(path, "vgg")
    with pytest.raises(ValueError, match="got 'squeeze'"):
        lpips.load(path, "squeeze")
    whole = path.read_bytes()
    for broken in (whole[:-1], whole[:100], b"", b"<html>not found</html>"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"is no \.safetensors file"):
            lpips.load(path)


def test_weights_of_another_network_are_refused():
    weights = backbone_weights("alex") | linear_weights("alex")
    with pytest.raises(
        ValueError, match=r"features\.0\.weight makes \(11, 11, 3, 64\)"
    ):
        lpips.from_torch(backbone_weights("vgg") | linear_weights("vgg"))
    with pytest.raises(ValueError, match=r"of 'vgg', of which features\.0\.weight"):
        lpips.from_torch(weights, "vgg")
    del weights["lin4.model.1.weight"]
    with pytest.raises(ValueError, match=r"none named 'lin4\.model\.1\.weight'"):
        lpips.from_torch(weights)


def test_the_command_converts_only_the_files_that_everybody_has(
    files, tmp_path, monkeypatch, capsys
):
    backbone, linear = files("alex")
    out = tmp_path / "out.safetensors"

    def run(*args):
        monkeypatch.setattr("sys.argv", ["lpips", *map(str, args)])
        lpips.main()

    run(backbone, linear, "--net=alex", f"--out={out}")
    assert capsys.readouterr().out == f"wrote {out}\n"
    expected = backbone_weights("alex")
    del expected["classifier.6.bias"]
    found = load_file(out)
    assert len(found) == len(expected) + 5
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
    monkeypatch.undo()
    with pytest.raises(SystemExit, match=r"to be alexnet-owt-7be5be79\.pth with"):
        run(backbone, linear)  # Random weights are not torchvision's.
    own = hashlib.sha256(backbone.read_bytes()).hexdigest()
    monkeypatch.setitem(lpips.SHA256, backbone.name, own)
    with pytest.raises(SystemExit, match=r"to be alex\.pth with"):
        run(backbone, backbone)
    linear.write_bytes(linear.read_bytes()[:-1])
    with pytest.raises(SystemExit, match="a broken download"):
        run(backbone, linear)
    with pytest.raises(SystemExit, match="No such file"):
        run(tmp_path / "missing.pth", linear)


@NETS
def test_a_backbones_name_holds_the_start_of_its_hash(net):
    backbone, linear = lpips.FILES[net]
    start = Path(backbone).stem.split("-")[-1]
    assert len(start) == 8 and lpips.SHA256[backbone].startswith(start)
    metrics = pytest.importorskip("torchmetrics", reason="needs the bench extra")
    folder = Path(metrics.__file__).parent / "functional/image/lpips_models"
    found = hashlib.sha256((folder / linear).read_bytes()).hexdigest()
    assert found == lpips.SHA256[linear]


@pytest.mark.parametrize("evil", [0, 1], ids=["backbone", "linear"])
def test_code_in_a_pth_is_not_run(files, evil, tmp_path, monkeypatch):
    """A pickle that would write a file, under the hash that is asked for."""
    paths, canary = files("alex"), tmp_path / "canary"

    class Evil:
        def __reduce__(self):
            return (open, (str(canary), "w"))

    paths[evil].write_bytes(pickle.dumps({"a": Evil()}, protocol=2))
    own = hashlib.sha256(paths[evil].read_bytes()).hexdigest()
    monkeypatch.setitem(lpips.SHA256, paths[evil].name, own)
    with pytest.raises(pickle.UnpicklingError):
        lpips.convert(*paths, "alex", tmp_path / "out.safetensors")
    assert not canary.exists()
