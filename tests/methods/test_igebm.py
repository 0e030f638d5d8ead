"""Energy networks and their chains, on energies that are solved on paper."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import recipes
from scipy import special

from genjax import methods
from genjax.config import ConfigError
from genjax.methods.energy import igebm

KEY = jax.random.key(0)


class Quadratic(nn.Module):
    """a |x - m|^2 / 2, where m is the label's if there are labels."""

    num_classes: int = 1

    @nn.compact
    def __call__(self, x, label=None, *, train):
        flat = x.reshape(len(x), -1)
        a = self.param("a", nn.initializers.constant(1.5), ())
        table = nn.initializers.normal(0.3)
        m = self.param("m", table, (self.num_classes, flat.shape[1]))
        m = m[0] if label is None else m[label]
        return 0.5 * a * jnp.square(flat - m).sum(axis=1)


def made(module, shape, *, chain=(3, 0.1, None, None, 1.0), **fields):
    """A model of such an energy."""
    options = dict(
        conditional=False,
        buffer_size=6,
        restart=0.0,
        magnitude_weight=0.0,
        data_noise=0.0,
        walk=igebm.Walk("noise", 5, 5),
    )
    return igebm.EnergyModel(
        module=module, shape=shape, chain=igebm.Chain(*chain), **(options | fields)
    )


def points(num, seed=0, size=2):
    x = np.random.RandomState(seed).normal(size=(num, size))
    return {"point": jnp.asarray(x, jnp.float32)}


def loss_and_grads(model, params, state, batch, key=KEY, train=True):
    def loss(own):
        return model.loss({"energy": own}, state, batch, key, step=0, train=train)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params["energy"])


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_gradient_is_that_of_fixed_chain_ends(weight):
    """All six chains are drawn, so their ends are the new buffer.

    With dE/da = |x - m|^2 / 2 =: q and E = a q, the loss has the slope
    mean (1 + 2 w E) q over data - mean (1 - 2 w E) q over ends in a; likewise in m,
    with dE/dm = -a (x - m). The ends depend on a and m too, through three steps: were
    that not cut, another 40 % would be added to the slope in a.
    """
    model = made(Quadratic(), (2,), magnitude_weight=weight)
    batch = points(6)
    params, state = model.init(KEY, batch)
    (value, (changed, _)), grads = loss_and_grads(model, params, state, batch)
    a, m = 1.5, np.asarray(params["energy"]["m"], np.float64)
    real, fake = (np.asarray(x, np.float64) for x in
                  (batch["point"], changed["buffer"]["x"]))  # fmt: skip
    total, slope_a, slope_m = 0.0, 0.0, 0.0
    for x, sign in ((real, 1), (fake, -1)):
        q = 0.5 * np.square(x - m).sum(axis=1)
        factor = sign + 2 * weight * a * q
        total += np.mean(sign * a * q + weight * (a * q) ** 2)
        slope_a += np.mean(factor * q)
        slope_m += np.mean(factor[:, None] * -a * (x - m), axis=0)
    np.testing.assert_allclose(value, total, rtol=1e-5)
    np.testing.assert_allclose(grads["a"], slope_a, rtol=1e-4)
    np.testing.assert_allclose(grads["m"][0], slope_m, rtol=1e-4)


@pytest.mark.parametrize("clip", [None, 0.4])
def test_chains_without_noise_descend(clip):
    """x <- x - h clip(a (x - m)), by numpy; images stop at 1, points do not."""
    start = 2 * np.random.RandomState(1).normal(size=(6, 1, 2, 1))
    for shape, bound in (((1, 2, 1), 1.0), ((2,), np.inf)):
        model = made(Quadratic(), shape, chain=(4, 0.3, 0.0, clip, 1.0))
        params = {"energy": {"a": jnp.float32(1.5), "m": jnp.full((1, 2), 1.4)}}
        x = start.reshape(6, *shape)
        keys = jax.random.split(KEY, 6)
        end = model.run(params, {}, jnp.asarray(x, jnp.float32), keys, None, 4)
        for _ in range(4):
            slope = np.clip(1.5 * (x - 1.4), -(clip or np.inf), clip or np.inf)
            x = np.clip(x - 0.3 * slope, -bound, bound)
        np.testing.assert_allclose(end, x, rtol=1e-4, atol=1e-6)


def test_buffer_keeps_places_and_some_chains_start_anew():
    """Old chains lie at 10 or more and shrink by r = (1 - h a)^K; new ones lie near 0.

    100 of 400 are drawn, a quarter of which start anew: 25 +- 4.3.
    """
    model = made(
        Quadratic(), (2,), chain=(2, 0.2, 0.0, None, 1.0), buffer_size=400, restart=0.25
    )
    batch = points(100)
    params, state = model.init(KEY, batch)
    assert np.abs(state["buffer"]["x"]).max() <= 1
    params["energy"]["m"] = jnp.zeros((1, 2))
    old = 10 + np.random.RandomState(2).uniform(size=(400, 2)).astype(np.float32)
    state = {"buffer": {"x": jnp.asarray(old)}}
    (_, (changed, _)), _ = loss_and_grads(model, params, state, batch)
    new, ratio = np.asarray(changed["buffer"]["x"]), (1 - 0.2 * 1.5) ** 2
    same = (new == old).all(axis=1)
    went_on = np.isclose(new, ratio * old, rtol=1e-4).all(axis=1)
    anew = (np.abs(new) <= ratio).all(axis=1)
    assert (same.astype(int) + went_on + anew == 1).all()
    assert (~same).sum() == 100  # None is drawn twice.
    assert abs(anew.sum() - 25) < 4 * 4.3
    assert len(np.unique(new[anew], axis=0)) == anew.sum()
    (_, (changed, _)), _ = loss_and_grads(model, params, state, batch, train=False)
    assert "buffer" not in changed


def test_chains_keep_their_label_and_samples_have_theirs():
    """Long descents end at the mean of the label, in the buffer and in samples."""
    model = made(
        Quadratic(3), (2,), chain=(60, 0.2, 0.0, None, 1.0), conditional=True,
        buffer_size=12, restart=0.5,
    )  # fmt: skip
    batch = {**points(12), "label": jnp.arange(12) % 3}
    params, state = model.init(KEY, batch)
    m = np.asarray(params["energy"]["m"])
    (_, (changed, _)), _ = loss_and_grads(model, params, state, batch)
    buffer = jax.device_get(changed["buffer"])
    np.testing.assert_allclose(buffer["x"], m[buffer["label"]], atol=1e-4)
    assert buffer["label"].shape == (12,)
    cond, keys = {"label": jnp.arange(9) % 3}, jax.random.split(KEY, 9)
    for start, steps in (("noise", 60), ("buffer", 1)):
        walked = replace(model, walk=igebm.Walk(start, steps, 1))
        own = {"buffer": jax.tree.map(jnp.asarray, buffer)}
        drawn = walked.sample(params, own, keys, cond)
        np.testing.assert_allclose(drawn, m[cond["label"]], atol=1e-4)
    own = {"buffer": {"x": jnp.arange(4.0), "label": jnp.array([0, 1, 1, 1])}}
    keys = jax.random.split(KEY, 300)
    drawn = np.asarray(igebm.pick(own["buffer"], keys, jnp.ones(300, int)))
    np.testing.assert_array_equal(np.unique(drawn), [1, 2, 3])


def pairs_energy(x):
    """Of normal pairs of pixels of variance s^2 and correlation 0.8."""
    flat = x.reshape(len(x), 2)
    return 0.5 * jnp.sum(flat @ jnp.linalg.inv(COVARIANCE) * flat, axis=1)


COVARIANCE = 0.04 * np.array([[1.0, 0.8], [0.8, 1.0]])


class Pairs(nn.Module):
    @nn.compact
    def __call__(self, x, label=None, *, train):
        return pairs_energy(x)


def test_samples_completions_and_descents_of_normal_pairs():
    """Given x1 = 0.2 the other is N(0.8 x1, 0.36 s^2), s = 0.2.

    The variance along the conditional is 1 / (1 - h / (2 v)) times too large, here
    1.05; both moments are held to four standard errors of 2,000 chains and that.
    """
    num = 2000
    model = made(
        Pairs(), (1, 2, 1), chain=(1, 0.0014, None, None, 1.0),
        walk=igebm.Walk("noise", 300, 3),
    )  # fmt: skip
    params, keys = {"energy": {}}, jax.random.split(KEY, num)
    images = jnp.full((num, 1, 2, 1), 0.2)
    known = jnp.zeros((num, 1, 2), bool).at[..., 0].set(True)
    whole = np.asarray(jax.jit(model.complete)(params, {}, keys, images, known, {}))
    np.testing.assert_array_equal(whole[:, 0, 0], np.float32(0.2))
    other, variance = whole[:, 0, 1, 0], 0.36 * 0.04 * 1.05
    assert abs(other.mean() - 0.16) < 4 * (variance / num) ** 0.5
    assert abs(other.var() / variance - 1) < 4 * (2 / num) ** 0.5
    drawn = np.asarray(jax.jit(model.sample)(params, {}, keys, {})).reshape(num, 2)
    np.testing.assert_allclose(np.cov(drawn.T), COVARIANCE, atol=0.007)
    mended = model.denoise(params, {}, keys[:2], images[:2], {}).reshape(2, 2)
    step = np.eye(2) - 0.0014 * np.linalg.inv(COVARIANCE)
    expected = np.linalg.matrix_power(step, 3) @ [0.2, 0.2]
    np.testing.assert_allclose(mended, [expected, expected], rtol=1e-4)


MEANS, SHARES, S = np.array([[-1.0, 0.5], [1.0, -0.5]]), np.array([0.7, 0.3]), 0.4


def test_energy_of_two_modes_is_learned():
    """exp(-E), normalised on a grid, against the true density: total variation.

    A single Gaussian of the data's moments is 0.35 from it, and the uniform density on
    the square 0.75.
    """
    model = made(
        igebm.MLPEnergy((32, 32)), (2,), chain=(8, 0.03, None, None, 2.5),
        buffer_size=1024, restart=0.02, magnitude_weight=0.001,
    )  # fmt: skip
    random = np.random.RandomState(0)
    x = MEANS[random.choice(2, p=SHARES, size=4096)]
    x = jnp.asarray(x + S * random.normal(size=x.shape), jnp.float32)
    params, state = model.init(KEY, {"point": x[:1]})
    tx = optax.adam(optax.cosine_decay_schedule(5e-3, 300), b1=0.0)

    def step(carry, key):
        params, state, opt_state = carry
        batch = {"point": jax.random.choice(key, x, (256,))}
        grads, (changed, _) = jax.grad(model.loss, has_aux=True)(
            params, state, batch, key, step=0, train=True
        )
        updates, opt_state = tx.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, {**state, **changed}, opt_state), None

    keys = jax.random.split(KEY, 300)
    train = jax.jit(lambda carry: jax.lax.scan(step, carry, keys)[0])
    params, state, _ = train((params, state, tx.init(params)))
    axis = np.linspace(-3, 3, 60)
    plane = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    found = model.energy(params, state, {"point": jnp.asarray(plane, jnp.float32)})
    squares = np.square(plane[:, None] - MEANS).sum(-1)
    truth = special.logsumexp(np.log(SHARES) - squares / (2 * S**2), axis=1)
    p, q = special.softmax(-np.asarray(found, np.float64)), special.softmax(truth)
    assert 0.5 * np.abs(p - q).sum() < 0.2


def tiny(name="igebm_digits", shape=(8, 8, 1), **fields):
    """The method of a tiny recipe, with its model changed."""
    config = recipes.get(name)
    config.data.shape, config.data.num_classes = shape, 10
    with config.unlocked():
        config.model.update(fields)
    return methods.load(config)


def test_spectral_norms_are_refined_in_training_alone():
    """Without labels: the loss's own energies, by the vectors before it."""
    network = dict(name="mlp", features=(8, 8), norm="spectral")
    method = tiny(network=network, conditional=False)
    batch = {"image": jnp.asarray(255 * np.eye(64).reshape(-1, 8, 8, 1)[:8], jnp.uint8)}
    params, state = method.init(KEY, batch)
    model = method.init.__self__
    (_, (changed, _)), _ = loss_and_grads(model, params, state, batch)
    new, old = map(jax.tree.leaves, (changed["energy"], state["energy"]))
    assert [x.shape for x in new] == [(8,), (8,), (1,)]
    # The last weight is a column, whose only right singular vector is known at once.
    assert all((a != b).any() for a, b in zip(new[:2], old[:2], strict=True))
    (_, (changed, _)), _ = loss_and_grads(model, params, state, batch, train=False)
    assert changed == {}


def test_igebm_refuses_what_it_cannot_be():
    for fields, message in [
        (dict(buffer_size=4), "buffer_size must be at least config.data.batch_size=8"),
        (dict(restart=1.5), r"restart must be in \[0, 1\]"),
        (dict(num_steps=0), "num_steps must be a whole"),
        (dict(network=dict(name="unet")), r"network\.name must be one of"),
        (dict(network=dict(name="mlp", norm="batch")), "norm must be one of"),
        (dict(network=dict(name="mlp", num_classes=3)), "must leave"),
        (dict(network=dict(name="mlp", features=())), "at least|hidden layer"),
        (dict(network=dict(name="conv", features=(4,) * 4)), "halve 4 times"),
    ]:
        with pytest.raises(ConfigError, match=message):
            tiny(**fields)
    with pytest.raises(ConfigError, match="images"):
        tiny("igebm_rings", (2,), network=dict(name="strided"))
