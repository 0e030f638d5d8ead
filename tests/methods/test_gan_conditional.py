"""The methods sngan, began, conditional_gan and ac_gan against what can be derived."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from genjax import methods
from genjax.config import ConfigError
from genjax.methods.gan.ac_gan import Split, class_nll
from genjax.methods.gan.conditional_gan import WithLabel
from genjax.networks.mlp import MLP


def tiny(name):
    """The tiny recipe on digits, with what the data would fill in."""
    config = importlib.import_module(f"configs.{name}_digits").get_config("tiny")
    config.data.shape, config.data.num_classes = (8, 8, 1), 10
    return config


def batch_of(num):
    rng = np.random.default_rng(0)
    image = rng.integers(256, size=(num, 8, 8, 1), dtype=np.uint8)
    return {"image": jnp.asarray(image), "label": jnp.arange(num) % 10}


def made(config, num=6):
    """(method, params, model_state, batch) with fresh weights."""
    method, batch = methods.load(config), batch_of(num)
    params, model_state = jax.jit(method.init)(jax.random.key(0), batch)
    return method, params, model_state, batch


def losses(method, params, model_state, batch, *, train):
    """[(loss, changed entries, metrics)] of the players."""
    found = []
    for player in method.players:
        fn = jax.jit(lambda *args, p=player: p.loss(*args, step=0, train=train))
        loss, (changed, metrics) = fn(params, model_state, batch, jax.random.key(1))
        found.append((loss, changed, metrics))
    return found


@pytest.mark.parametrize("name", ["sngan", "began", "conditional_gan", "ac_gan"])
def test_evaluating_changes_nothing_and_training_only_ones_own(name):
    config = tiny(name)
    method, *game = made(config)
    assert [p.name for p in method.players] == ["discriminator", "generator"]
    for loss, changed, _ in losses(method, *game, train=False):
        assert np.isfinite(loss) and not changed
    own = [{"discriminator"}, {"generator"}]
    if name == "began":
        own = [{"k"}, set()]
    if name in ("conditional_gan", "ac_gan"):  # Too small for a norm in the first.
        own = [set(), {"generator"}]
    found = losses(method, *game, train=True)
    assert [set(changed) for _, changed, _ in found] == own


class Echo(MLP):
    """The network's input, as its output."""

    def __call__(self, x, *, train):
        return x


def test_with_label_adds_one_hot_channels_to_latents_and_to_every_pixel():
    label = jnp.array([2, 0])
    echo = WithLabel(Echo((), (1,)), 3)
    z = jnp.array([[5.0, 6.0], [7.0, 8.0]])
    np.testing.assert_array_equal(
        echo.apply({}, z, label, train=True), [[5, 6, 0, 0, 1], [7, 8, 1, 0, 0]]
    )
    image = jnp.full((2, 2, 3, 1), 9.0)
    found = echo.apply({}, image, label, train=True)
    assert found.shape == (2, 2, 3, 4)
    for k, vector in enumerate([[9, 0, 0, 1], [9, 1, 0, 0]]):
        assert (found[k] == jnp.array(vector)).all()


@pytest.mark.parametrize("name", ["conditional_gan", "ac_gan"])
def test_samples_follow_their_label(name):
    """One latent, two classes: two images; the same class twice: one."""
    method, params, model_state, _ = made(tiny(name))
    assert method.cond == ("label",)
    z = jnp.ones((3, 64))
    images = jax.jit(method.decode)(
        params, model_state, z, {"label": jnp.array([4, 7, 4])}
    )
    np.testing.assert_allclose(images[0], images[2], atol=1e-6)
    assert np.abs(images[0] - images[1]).max() > 1e-4


def test_conditional_discriminator_judges_by_the_label():
    method, params, model_state, batch = made(tiny("conditional_gan"))
    first, second = (
        losses(method, params, model_state, {**batch, "label": k}, train=False)
        for k in (jnp.full(6, 3), jnp.full(6, 7))
    )
    assert abs(first[0][2]["real"] - second[0][2]["real"]) > 1e-4


def test_class_nll_is_scipys_cross_entropy():
    logits = np.random.default_rng(0).normal(size=(4, 5)) * 3
    label = np.array([0, 3, 3, 1])
    nll, accuracy = class_nll(jnp.asarray(logits), label)
    expected = -special.log_softmax(logits, axis=1)[np.arange(4), label]
    np.testing.assert_allclose(nll, expected, rtol=1e-5)
    assert accuracy == np.mean(logits.argmax(1) == label)


def test_ac_gan_of_a_discriminator_that_knows_nothing():
    """All outputs 0: D = 1/2 and P(class) = 1/10, so L_D = 2 log 2 + 2 w log 10 and
    L_G = log 2 + w log 10.
    """
    config = tiny("ac_gan")
    config.model.class_weight = 0.3
    method, params, *rest = made(config)
    blank = jax.tree.map(jnp.zeros_like, params["discriminator"])
    found = losses(method, {**params, "discriminator": blank}, *rest, train=True)
    of_class = 0.3 * np.log(10)
    np.testing.assert_allclose(found[0][0], 2 * (np.log(2) + of_class), rtol=1e-5)
    np.testing.assert_allclose(found[1][0], np.log(2) + of_class, rtol=1e-5)


def test_ac_gan_discriminator_does_not_see_the_label():
    split = Split(Echo((), (1,)))
    logit, logits = split.apply({}, jnp.arange(8.0).reshape(2, 4), None, train=True)
    np.testing.assert_array_equal(logit, [0, 4])
    np.testing.assert_array_equal(logits, [[1, 2, 3], [5, 6, 7]])


def test_began_of_an_autoencoder_that_answers_zero():
    """Its error is the mean of |x|: that of a grey 255 is 1, of a black -1 it is 1.

    Real images of level 191.25 have x = 0.5, so E[L(x)] = 0.5 (as near as a uint8
    gets); a generator with zero weights makes 0, so L(G(z)) = 0. Then with k = 0.2:
    L_D = 0.5, k moves up by rate * gamma * 0.5, M = 0.5 + gamma * 0.5.
    """
    config = tiny("began")
    config.model.update(gamma=0.4, k_rate=0.1)
    method, params, model_state, batch = made(config)
    assert model_state["k"] == 0
    params = jax.tree.map(jnp.zeros_like, params)
    batch = {**batch, "image": jnp.full((6, 8, 8, 1), 191, jnp.uint8)}
    level = 191 / 127.5 - 1
    state = {"k": jnp.float32(0.2)}
    (loss, changed, metrics), (loss_g, _, _) = losses(
        method, params, state, batch, train=True
    )
    np.testing.assert_allclose(loss, level, rtol=1e-5)
    np.testing.assert_allclose(changed["k"], 0.2 + 0.1 * 0.4 * level, rtol=1e-5)
    np.testing.assert_allclose(metrics["convergence"], 1.4 * level, rtol=1e-5)
    np.testing.assert_allclose(loss_g, 0, atol=1e-6)
    # A generator that says 1 everywhere: L(G(z)) = 1, and k falls, but not below 0.
    params["generator"]["out"]["bias"] = jnp.ones(1)
    (loss, changed, metrics), (loss_g, _, _) = losses(
        method, params, state, batch, train=True
    )
    np.testing.assert_allclose(loss, level - 0.2, rtol=1e-5)
    np.testing.assert_allclose(loss_g, 1, rtol=1e-6)
    np.testing.assert_allclose(changed["k"], 0.2 + 0.1 * (0.4 * level - 1), rtol=1e-5)
    np.testing.assert_allclose(metrics["convergence"], 1 + 0.6 * level, rtol=1e-5)
    low = losses(method, params, {"k": jnp.float32(0.01)}, batch, train=True)
    assert low[0][1]["k"] == 0


def test_sngan_says_the_same_of_an_image_when_its_weights_grow():
    """Over its norm, ten times a weight is the same weight; biases start at 0."""
    method, params, *rest = made(tiny("sngan"))
    grown = jax.tree.map(lambda w: 10 * w, params["discriminator"])
    for train in (True, False):
        first, second = (
            losses(method, {**params, "discriminator": d}, *rest, train=train)
            for d in (params["discriminator"], grown)
        )
        np.testing.assert_allclose(first[0][0], second[0][0], rtol=1e-4)
        np.testing.assert_allclose(first[1][0], second[1][0], rtol=1e-4)


def test_sngan_with_labels_uses_them_in_both_networks():
    config = tiny("sngan")
    config.model.conditional = True
    method, params, *_ = made(config)
    assert method.cond == ("label",)
    shapes = jax.tree.map(jnp.shape, params)
    assert shapes["generator"]["block_0"]["norm_in"]["scale"] == (10, 8)
    assert shapes["discriminator"]["label"]["embedding"] == (10, 8)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("sngan", {"loss": "hinged"}, "hinge"),
        ("sngan", {"discriminator": dict(name="resnet", norm="none")}, "norm"),
        ("sngan", {"generator": dict(name="resnet", features=(8,) * 4)}, "halve 4"),
        ("sngan", {"latent_features": 0}, "latent_features"),
        ("began", {"gamma": 1.5}, "gamma"),
        ("began", {"generator": dict(name="dcgan", features=8)}, "began"),
        ("ac_gan", {"class_weight": 0.0}, "class_weight"),
        ("ac_gan", {"prior": "gauss"}, "normal"),
        ("conditional_gan", {"discriminator_step": 2}, "discriminator_steps"),
    ],
)
def test_bad_values_are_refused_by_name(name, change, words):
    config = tiny(name)
    config.model = {**config.model.to_dict(), **change}
    with pytest.raises(ConfigError, match=words):
        methods.load(config)


@pytest.mark.parametrize("name", ["conditional_gan", "ac_gan"])
def test_data_without_labels_are_refused(name):
    config = tiny(name)
    config.data.num_classes = None
    with pytest.raises(ConfigError, match="labels"):
        methods.load(config)
