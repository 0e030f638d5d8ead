"""Walks of methods whose latent is the image itself, or two grey levels."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from genjax import data, images
from genjax.config import ConfigError, base_config
from genjax.train import phases, sampling, tables, walks
from genjax.train.sharding import all_devices
from genjax.types import Method

SHAPE = (8, 8, 1)


def identity(**changes):
    """Its latents are the images, its prior uniform in their range."""

    def prior(params, model_state, keys, cond):
        return jax.vmap(lambda key: jax.random.uniform(key, SHAPE, minval=-1))(keys)

    fields = dict(
        init=None,
        encode=lambda params, state, key, batch: images.to_float(batch["image"]),
        decode=lambda params, state, latents, cond: params["scale"] * latents,
        prior=prior,
        sample=lambda params, state, keys, cond: prior(params, state, keys, cond),
    )
    return Method(**(fields | changes))


def labelled(**changes):
    """The same, but a decoder that is given the class shows it in the first pixel."""

    def decode(params, model_state, latents, cond):
        level = cond["label"].astype(jnp.float32) / 127.5 - 1
        return latents.at[:, 0, 0, 0].set(level)

    return identity(decode=decode, cond=("label",), **changes)


def two_halves(**changes):
    """Latents (z0, z1): the left half's brightness and the right half's, in tenths."""

    def decode(params, model_state, latents, cond):
        halves = jnp.repeat(latents, 4, axis=1)[:, None, :, None] / 10
        return jnp.broadcast_to(halves, (len(latents), *SHAPE))

    def prior(params, model_state, keys, cond):
        return jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)

    fields = dict(decode=decode, prior=prior, encode=None)
    return identity(**(fields | changes))


def model(method, batch_size=64, seed=0, **data_fields):
    config = base_config()
    config.method = "toy"
    config.data.update(name="digits", **data_fields)
    config, _ = phases.resolve(config)
    params = {"scale": jnp.float32(1)}
    return tables.Model(method, config, params, {}, all_devices(), batch_size, seed)


@pytest.fixture(scope="module")
def held_out():
    source = data.load(base_config().data).test
    return np.stack([x["image"] for x in source]), [int(x["label"]) for x in source]


def test_lerp_between_real_images_is_their_cross_fade(held_out):
    """numpy's own interpolation of each pixel; images 2 i and 2 i + 1 are row i's."""
    real, label = held_out
    options = dict(num=3, points=5, path="lerp")
    walk = walks.make("interpolate", model(identity()), options)
    assert walk.arrays["images"].shape == (3, 5, *SHAPE)
    for i, j in np.ndindex(3, 5):
        mixed = (real[2 * i] * (4.0 - j) + real[2 * i + 1] * float(j)) / 4
        assert np.abs(walk.arrays["images"][i, j] - mixed).max() <= 0.5 + 1e-3
    np.testing.assert_array_equal(walk.cells[:, 0], real[[0, 2, 4]])
    np.testing.assert_array_equal(walk.cells[:, -1], real[[1, 3, 5]])
    np.testing.assert_array_equal(walk.cells[:, 1:-1], walk.arrays["images"])
    assert walk.columns == [
        *("real", "t = 0", "t = 0.25", "t = 0.5", "t = 0.75", "t = 1", "real")
    ]
    assert walk.rows[0] == f"class {label[0]} to {label[1]}"
    assert walk.arrays["index"].tolist() == list(range(6))
    assert walk.arrays["label"].tolist() == label[:6]
    assert walk.arrays["split"] == "test" and walk.arrays["path"] == "lerp"


def test_draws_of_the_prior_are_those_of_the_samples(held_out):
    """Ends of row i are samples 2 i and 2 i + 1 at any number.

    By slerp where there is a prior, between images too, and else by lerp.
    """
    toy = model(identity(), batch_size=4, seed=5)
    draw = sampling.make_draw(toy.method, toy.mesh, 7)
    samples = draw(toy.params, {}, seed=5, num=6, cond={})
    for num in (1, 3):
        options = dict(num=num, points=3, between="prior")
        walk = walks.make("interpolate", toy, options)
        np.testing.assert_array_equal(walk.cells[:, 0], samples[: 2 * num : 2])
        np.testing.assert_array_equal(walk.cells[:, -1], samples[1 : 2 * num : 2])
    assert walk.arrays["path"] == "slerp" and walk.rows[1] == "draw 2 to 3"
    ends = np.linalg.norm(walk.arrays["latents"][:, [0, 2]].reshape(3, 2, -1), axis=-1)
    middle = np.linalg.norm(walk.arrays["latents"][:, 1].reshape(3, -1), axis=-1)
    assert (np.abs(middle / ends.mean(1) - 1) < 0.05).all()  # lerp's is 0.7.
    for method, path in [(identity(), "slerp"), (identity(prior=None), "lerp")]:
        walk = walks.make("interpolate", model(method), dict(num=1, points=2))
        assert walk.arrays["path"] == path


def test_labels_say_which_images_and_conditional_ways_share_their_class(held_out):
    _, label = held_out
    options = dict(num=2, points=2, label="3,8")
    walk = walks.make("interpolate", model(identity()), options)
    assert walk.arrays["label"].tolist() == [3, 8, 3, 8]
    threes = [i for i, c in enumerate(label) if c == 3]
    assert walk.arrays["index"][::2].tolist() == threes[:2]
    walk = walks.make("interpolate", model(labelled()), options)
    assert walk.arrays["label"].tolist() == [3, 3, 8, 8]
    assert walk.arrays["index"][:2].tolist() == threes[:2]
    assert walk.arrays["images"][:, :, 0, 0, 0].tolist() == [[3, 3], [8, 8]]
    assert walk.rows == ["class 3", "class 8"]
    walk = walks.make("interpolate", model(labelled()), dict(options, between="prior"))
    assert walk.arrays["images"][:, :, 0, 0, 0].tolist() == [[3, 3], [8, 8]]


def test_the_manifold_brightens_to_the_right_and_upwards():
    """Quantiles 1/6, 1/2 and 5/6 of the normal are -0.967, 0 and 0.967 (tables)."""
    walk = walks.make("manifold", model(two_halves()), dict(points=3))
    levels = walk.cells[:, :, 0, [0, 7], 0]
    low, middle, high = np.rint((np.array([-0.0967, 0, 0.0967]) + 1) * 127.5)
    assert levels[:, :, 0].tolist() == [[low, middle, high]] * 3
    assert levels[:, :, 1].T.tolist() == [[high, middle, low]] * 3
    assert walk.rows == ["z1 = 0.97", "z1 = 0.00", "z1 = -0.97"]
    assert walk.columns == ["z0 = -0.97", "0.00", "0.97"]


@pytest.mark.parametrize("num", [5, 20])
def test_reconstructions_lie_under_their_images(num, held_out):
    """A decoder of the negative: what is below is 255 minus what is above."""
    real, _ = held_out

    def negative(params, model_state, latents, cond):
        return -latents

    toy = model(identity(decode=negative), batch_size=3)
    walk = walks.make("reconstruct", toy, dict(num=num))
    height, width = (1, 5) if num == 5 else (2, 16)
    assert walk.cells.shape == (2 * height, width, *SHAPE)
    assert walk.rows == ["real", "reconstruction"] * height
    np.testing.assert_array_equal(walk.arrays["images"], 255 - real[:num])
    upper = walk.cells[::2].reshape(-1, *SHAPE)
    lower = walk.cells[1::2].reshape(-1, *SHAPE)
    np.testing.assert_array_equal(upper[:num], real[:num])
    np.testing.assert_array_equal(lower[:num], 255 - real[:num])
    assert (upper[num:] == 255).all() and (lower[num:] == 255).all()


@pytest.mark.parametrize("method", [identity, labelled])
def test_arithmetic_of_classes_by_numpy(method, held_out):
    """Grey levels themselves: mean A - mean B + mean C, of the first three of each."""
    real, label = held_out
    walk = walks.make("arithmetic", model(method()), dict(classes=[7, 1, 4]))
    groups = [
        real[[i for i, c in enumerate(label) if c == k][:3]].astype(float)
        for k in (7, 1, 4)
    ]
    np.testing.assert_array_equal(walk.arrays["exemplars"], np.concatenate(groups))
    means = [group.mean(0) for group in groups]
    expected = np.stack([*means, (means[0] - means[1] + means[2]).clip(0, 255)])
    expected[:, 0, 0] = (
        [[7], [1], [4], [4]] if method is labelled else expected[:, 0, 0]
    )
    assert np.abs(walk.arrays["images"] - expected).max() <= 0.5 + 1e-3
    assert walk.cells.shape == (4, 4, *SHAPE)
    np.testing.assert_array_equal(walk.cells[:, 3], walk.arrays["images"])
    assert (walk.cells[3, :3] == 255).all()
    assert walk.rows == ["class 7", "- class 1", "+ class 4", "= result"]


def test_arithmetic_of_draws_by_hand():
    """On latents of two numbers; draws as the samples have them."""
    toy = model(two_halves(), seed=3)
    chosen = [[1, 5], [2, 3], [9, 6]]
    walk = walks.make("arithmetic", toy, dict(exemplars=chosen))
    z = toy.method.prior({}, {}, sampling.image_keys(3, 10), {})
    np.testing.assert_allclose(
        walk.arrays["latents"][3],
        (z[1] + z[5] - z[2] - z[3] + z[9] + z[6]) / 2,
        atol=1e-6,
    )
    drawn = images.to_uint8(toy.method.decode({}, {}, z, {}))
    np.testing.assert_array_equal(walk.cells[:3, :2], drawn[np.array(chosen)])
    assert walk.rows == ["A", "- B", "+ C", "= result"]
    assert walk.arrays["index"].tolist() == [1, 5, 2, 3, 9, 6]


def test_traversals_change_one_pixel(held_out):
    real, _ = held_out
    options = dict(axes=[9, 0], points=3)
    walk = walks.make("traverse", model(identity()), options)
    ends = walk.arrays["values"][:, [0, -1]]  # Of the uniform prior.
    np.testing.assert_allclose(ends, [[-1, 1]] * 2, atol=0.015)
    assert walk.rows[0] == f"z9: {ends[0, 0]:.2g} to {ends[0, 1]:.2g}"
    assert walk.columns == ["real", "lowest", "", "highest"]
    for row, pixel in enumerate(((1, 1), (0, 0))):
        for column, level in enumerate((0, 128, 255)):
            expected = real[0].copy()
            expected[pixel] = level
            cell = walk.cells[row, 1 + column]
            np.testing.assert_allclose(np.int32(cell), expected, atol=2)
    assert (walk.cells[:, 0] == real[0]).all()
    drawn = walks.make("traverse", model(two_halves()), {})
    ends = drawn.arrays["values"][:, [0, -1]]  # Of 4096 draws from a standard normal.
    np.testing.assert_allclose(ends, [[-3, 3]] * 2, atol=0.4)
    assert np.ptp(drawn.cells[0, :, 0, 7]) == 0 < np.ptp(drawn.cells[0, :, 0, 0])


def test_a_traversal_without_a_prior_covers_the_encodings(held_out):
    real, _ = held_out
    walk = walks.make("traverse", model(identity(prior=None)), dict(axes=[9, 2]))
    pixels = images.to_float(jnp.asarray(real)).reshape(len(real), -1)[:, [9, 2]]
    ends = walk.arrays["values"][:, [0, -1]].T
    expected = np.quantile(pixels, scipy.stats.norm.cdf([-3, 3]), axis=0)
    np.testing.assert_allclose(ends, expected, rtol=0.05)
    assert np.ptp(ends) > 1


def test_one_compilation_serves_all_batches_and_the_sizes_agree():
    traced = []

    def decode(params, model_state, latents, cond):
        traced.append(latents.shape)
        return latents

    walk = {}
    for batch_size in (4, 64):
        toy = model(identity(decode=decode), batch_size)
        walk[batch_size] = walks.make("interpolate", toy, dict(num=3, points=5))
    assert traced == [(4, *SHAPE), (15, *SHAPE)]
    np.testing.assert_array_equal(walk[4].cells, walk[64].cells)


EIGHT = """
import json, sys
import jax
sys.path.insert(0, "tests/train")
import test_walks
from genjax.train import walks

toy = test_walks.model(test_walks.labelled(), batch_size=5)
cells = {}
for between in ("images", "prior"):
    options = dict(num=3, points=3, between=between)
    cells[between] = walks.make("interpolate", toy, options).cells.tolist()
print(json.dumps([jax.device_count(), cells]))
"""


def test_eight_devices_walk_as_one():
    found = {}
    for devices in (1, 8):
        flags = os.environ["XLA_FLAGS"]
        flags = f"{flags} --xla_force_host_platform_device_count={devices}"
        done = subprocess.run(
            [sys.executable, "-c", EIGHT],
            env={**os.environ, "XLA_FLAGS": flags},
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert done.returncode == 0, done.stderr[-3000:]
        count, found[devices] = json.loads(done.stdout.splitlines()[-1])
        assert count == devices
    for between in ("images", "prior"):
        np.testing.assert_allclose(found[1][between], found[8][between], atol=1)


def codes(params, model_state, key, batch):
    return jnp.zeros((len(batch["image"]), 2, 2), jnp.int32)


@pytest.mark.parametrize(
    "method, what, options, words",
    [
        (
            identity(decode=None),
            "interpolate",
            {},
            "with decode. 'toy' has sample, enco",
        ),
        (identity(decode=None), "interpolate", {}, "what works: --what=samples$"),
        (
            identity(encode=None),
            "reconstruct",
            {},
            "with encode. 'toy' has sample, dec",
        ),
        (identity(encode=None, prior=None), "traverse", {}, "with encode or prior"),
        (identity(), "manifold", {}, r"exactly 2 numbers, but .* \(8, 8, 1\)"),
        (two_halves(), "reconstruct", {}, "--what=manifold, --what=arithmetic, --what"),
        (
            identity(encode=codes, prior=None),
            "traverse",
            {},
            "continuous .* int32 codes.* works: --what=samples, --what=reconstruct$",
        ),
        (identity(), "traverse", {"path": "lerp"}, "no field 'path'.*Its fields: axes"),
        (identity(), "interpolate", {"path": "slurp"}, "did you mean 'slerp'"),
        (identity(encode=None), "interpolate", {"between": "images"}, r"\['prior'\]"),
        (
            identity(),
            "interpolate",
            {"points": 1},
            "--points must be at least 2, got 1",
        ),
        (identity(), "interpolate", {"label": "12"}, r"--label must be .* 0\.\.9"),
        (identity(), "reconstruct", {"num": 4000}, "4000 images are needed, of "),
        (identity(), "reconstruct", {"num": 400, "label": "3"}, r"too few .* \[3\]"),
        (identity(), "traverse", {"axes": [64]}, r"--axes: .* \[0, 64\), got \[64\]"),
        (identity(), "arithmetic", {}, "needs --classes=A,B,C.* or --exemplars"),
        (
            identity(),
            "arithmetic",
            {"classes": [1, 2]},
            "three of the data's 10 .* 1,2$",
        ),
        (identity(), "arithmetic", {"classes": [1, 2, 10]}, "got 1,2,10"),
        (
            identity(),
            "arithmetic",
            {"classes": [1, 2, 3], "label": "1"},
            "leave .* out",
        ),
        (identity(), "arithmetic", {"exemplars": [[1], [2], [3, 4]]}, "three lists"),
        (identity(), "arithmetic", {"exemplars": [[1], [-2], [3]]}, "from 0 on"),
        (two_halves(), "arithmetic", {"classes": [1, 2, 3]}, "with --exemplars"),
        (
            identity(prior=None),
            "arithmetic",
            {"exemplars": [[1]] * 3},
            "with --classes",
        ),
    ],
)
def test_errors_say_what_the_method_has_and_what_works(method, what, options, words):
    with pytest.raises(ConfigError, match=words):
        walks.make(what, model(method), options)


def test_points_and_unlabelled_images_are_refused():
    toy = model(identity())
    toy.config.data.shape = (2,)
    with pytest.raises(ConfigError, match=r"points of shape .* works: --what=samples"):
        walks.make("interpolate", toy, {})
    toy = model(identity())
    toy.config.data.num_classes = None
    with pytest.raises(ConfigError, match="no labels"):
        walks.make("reconstruct", toy, {"label": "3"})


def test_completions_hide_a_half_and_draw_it_anew(held_out):
    """What is drawn is uniform noise by one key a completion: kept pixels are real."""

    def complete(params, model_state, keys, x, known, cond):
        noise = jax.vmap(lambda key: jax.random.uniform(key, SHAPE, minval=-1))(keys)
        return jnp.where(known[..., None], x, noise)

    toy = model(identity(complete=complete), batch_size=3)
    walk = walks.make("complete", toy, {"num": 2, "points": 3, "known": "left"})
    real, hidden, drawn = walk.cells[:, 0], walk.cells[:, 1], walk.cells[:, 2:]
    np.testing.assert_array_equal(real, held_out[0][:2])
    np.testing.assert_array_equal(hidden[:, :, :4], real[:, :, :4])
    assert (hidden[:, :, 4:] == 128).all()
    assert (drawn[:, :, :, :4] == real[:, None, :, :4]).all()
    keys = sampling.image_keys(0, 6)
    noise = jax.vmap(lambda key: jax.random.uniform(key, SHAPE, minval=-1))(keys)
    expected = np.asarray(images.to_uint8(noise)).reshape(2, 3, *SHAPE)
    np.testing.assert_array_equal(drawn[..., 4:, :], expected[..., 4:, :])
    with pytest.raises(ConfigError, match=r"--known must be one of .*, got 'upper'"):
        walks.make("complete", toy, {"known": "upper"})


def test_denoising_is_given_noise_of_the_asked_size(held_out):
    """A method that returns what it is given shows the noise: its spread is sigma."""
    seen = identity(denoise=lambda params, state, keys, x, cond: x / 8)
    walk = walks.make("denoise", model(seen), {"num": 200, "sigma": 0.5})
    np.testing.assert_array_equal(walk.cells[:, 0], held_out[0][:200])
    x = held_out[0][:200] / 127.5 - 1
    noise = walk.arrays["images"] * (8 / 127.5) - 8 - x
    # 12,800 draws: 0.5 / sqrt(25,600) = 0.003; rounding adds 8 / 127.5 / sqrt(12).
    assert abs(noise.std() - np.hypot(0.5, 8 / 127.5 / np.sqrt(12))) < 0.012
    assert abs(noise.mean()) < 0.02


@pytest.mark.parametrize("constant", [None, 3.0])
def test_a_density_over_the_plane_by_scipy(constant):
    """Of a normal, by its likelihood or by an energy that is off by a constant."""
    normal = scipy.stats.multivariate_normal([0.5, 0], np.diag([1, 0.25]))

    def nats(params, model_state, key, batch):
        z = (batch["point"] - jnp.array([0.5, 0])) / jnp.array([1, 0.5])
        return -(z**2).sum(1) / 2 - jnp.log(jnp.pi), {}

    def energy(params, model_state, batch):
        return constant - nats(params, model_state, None, batch)[0]

    config = base_config()
    config.method, config.data.name = "toy", "synthetic:ring"
    config, _ = phases.resolve(config)
    how = {"log_likelihood": nats} if constant is None else {"energy": energy}
    method = Method(init=None, **how)
    toy = tables.Model(method, config, {}, {}, all_devices(), 1000)
    walk = walks.make("density", toy, {"points": 30})
    assert list(walk.columns) == ["data", "density"]
    assert walk.cells.shape == (1, 2, 360, 360, 3)
    x, y = np.meshgrid(walk.arrays["axis"], walk.arrays["axis"])
    expected = normal.logpdf(np.stack([x, y], -1)) - (constant or 0)
    np.testing.assert_allclose(walk.arrays["log_density"], expected, atol=1e-4)


def test_what_needs_the_plane_or_a_conditional_says_so():
    with pytest.raises(ConfigError, match="needs points in the plane"):
        walks.make("density", model(identity()), {})
    for what in ("complete", "denoise"):
        with pytest.raises(ConfigError, match=f"needs a method with {what}"):
            walks.make(what, model(identity()), {})
