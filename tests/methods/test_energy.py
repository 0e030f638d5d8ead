"""What the methods in methods/energy add to the losses and samplers they bind."""

import itertools
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import recipes
from scipy import optimize, special

from genjax import methods
from genjax.config import ConfigError
from genjax.methods.energy import ncsn as ncsn_file
from genjax.methods.energy import rbm as rbm_file

KEY = jax.random.key(0)


def made(name, shape, **fields):
    """The method of a tiny recipe for data of `shape`, with its model changed."""
    config = recipes.get(name)
    config.data.shape = shape
    with config.model.unlocked():
        config.model.update(fields)
    return methods.load(config)


def small_rbm(**fields):
    """(method, params, model_state, batch) of an RBM whose 64 states are listed."""
    method = made("rbm_digits", (2, 3, 1), num_hidden=4, binarize="threshold", **fields)
    random = np.random.RandomState(0)
    image = 255 * (random.uniform(size=(16, 2, 3, 1)) < 0.7)
    batch = {"image": jnp.asarray(image, jnp.uint8)}
    params, state = method.init(KEY, batch)
    sizes = {"weights": (6, 4), "visible": (6,), "hidden": (4,)}
    rbm = {k: jnp.asarray(random.normal(size=s), jnp.float32) for k, s in sizes.items()}
    assert jax.tree.map(jnp.shape, params["rbm"]) == sizes
    return method, {"rbm": rbm}, state, batch


def log_joint(rbm, v, h):
    """a.v + b.h + v W h, written out: [S, H states]."""
    return (v @ rbm["visible"])[:, None] + h @ rbm["hidden"] + v @ rbm["weights"] @ h.T


def states(size):
    return np.array(list(itertools.product([0.0, 1.0], repeat=size)))


def rbm_nll(rbm, v):
    """Nats [B] by the sum over all 64 x 16 states of both layers."""
    rbm = {k: np.asarray(x, np.float64) for k, x in rbm.items()}
    both = log_joint(rbm, states(6), states(4))
    own = special.logsumexp(log_joint(rbm, v, states(4)), axis=1)
    return special.logsumexp(both) - own


def visible(batch):
    return np.asarray(batch["image"]).reshape(-1, 6) / 255


def test_rbm_likelihood_by_enumeration_and_by_ais():
    """AIS within four standard errors of its weights; the sum of states to 1e-5."""
    method, params, state, batch = small_rbm()
    expected = rbm_nll(params["rbm"], visible(batch))
    nats, parts = method.log_likelihood(params, state, KEY, batch)
    np.testing.assert_allclose(nats, -expected, rtol=1e-5)
    num = 2000
    found, _ = method.log_likelihood(
        params, state, KEY, batch,
        num_chains=num, num_temperatures=20, enumerate_up_to=0,
    )  # fmt: skip
    again, _ = method.log_likelihood(
        params, state, jax.random.key(9), batch,
        num_chains=num, num_temperatures=20, enumerate_up_to=0,
    )  # fmt: skip
    np.testing.assert_array_equal(again, found)  # One estimate for all batches.
    error = found - nats
    np.testing.assert_allclose(error, error[0], atol=1e-4)
    keys = jax.random.split(jax.random.key(3), num)
    model = method.init.__self__
    log_weights = model.log_weights(params, state, keys, 20)
    weights = np.exp(np.asarray(log_weights - parts["log_partition"][0]))
    assert abs(weights.mean() - 1) < 4 * weights.std() / num**0.5
    assert abs(error[0]) < 4 * weights.std() / num**0.5
    assert weights.std() > 0.05  # Else the bound above would say nothing.


@pytest.mark.parametrize("num_visible, num_hidden", [(6, 4), (3, 5)])
def test_rbm_log_partition_sums_the_smaller_layer(num_visible, num_hidden):
    random = np.random.RandomState(1)
    rbm = {
        "weights": random.normal(size=(num_visible, num_hidden)),
        "visible": random.normal(size=num_visible),
        "hidden": random.normal(size=num_hidden),
    }
    both = log_joint(rbm, states(num_visible), states(num_hidden))
    found = rbm_file.enumerated_log_partition(jax.tree.map(jnp.asarray, rbm))
    np.testing.assert_allclose(found, special.logsumexp(both), rtol=1e-5)


@pytest.mark.parametrize("persistent", [False, True])
def test_rbm_gradient_with_many_long_chains_is_the_likelihoods(persistent):
    """CD-60 of 3,000 examples against finite differences of the enumerated nats.

    Entries of the gradient are means of 3,000 numbers in [0, 1] at most: a standard
    error of .009.
    """
    method, params, state, batch = small_rbm(
        num_steps=60, persistent=persistent, num_chains=3000
    )
    batch = jax.tree.map(lambda x: jnp.tile(x, (200, 1, 1, 1))[:3000], batch)
    player = method.players[0]

    def loss(rbm):
        return player.loss({"rbm": rbm}, state, batch, KEY, step=0, train=True)

    grads, (changed, _) = jax.jit(jax.grad(loss, has_aux=True))(params["rbm"])
    assert ("chains" in changed) == persistent
    v = visible(batch)
    for name, value in params["rbm"].items():

        def nll(flat, name=name, shape=value.shape):
            rbm = {**params["rbm"], name: flat.reshape(shape)}
            return rbm_nll(rbm, v).mean()

        flat = np.asarray(value, np.float64).ravel()
        expected = optimize.approx_fprime(flat, nll, 1e-5)
        np.testing.assert_allclose(grads[name].ravel(), expected, atol=0.036)


def test_rbm_samples_and_completions_follow_the_distribution():
    """Means of the listed states; given three of six pixels, conditional means."""
    method, params, state, _ = small_rbm()
    rbm = {k: np.asarray(x, np.float64) for k, x in params["rbm"].items()}
    num, v = 2000, states(6)
    p = special.softmax(special.logsumexp(log_joint(rbm, v, states(4)), axis=1))
    keys = jax.random.split(KEY, num)
    model = replace(method.init.__self__, sampling_steps=60)
    drawn = (jax.jit(model.sample)(params, state, keys, {}) + 1) / 2
    np.testing.assert_allclose(drawn.reshape(num, 6).mean(0), p @ v, atol=0.045)
    given = np.array([1.0, 0.0, 1.0])
    shown = np.full((num, 2, 3, 1), 0.3, np.float32)
    shown[:, 0, :, 0] = [0.9, -0.2, 0.4]  # Above zero is a one.
    known = np.zeros((num, 2, 3), bool)
    known[:, 0] = True
    whole = jax.jit(model.complete)(params, state, keys, shown, known, {})
    np.testing.assert_array_equal(whole[:, 0], shown[:, 0])
    fits = (v[:, :3] == given).all(axis=1)
    expected = p[fits] @ v[fits, 3:] / p[fits].sum()
    found = (np.asarray(whole[:, 1]).reshape(num, 3).mean(0) + 1) / 2
    np.testing.assert_allclose(found, expected, atol=0.045)


def test_rbm_refuses_what_it_cannot_be():
    with pytest.raises(ConfigError, match="binarize must be one of"):
        made("rbm_digits", (8, 8, 1), binarize="none")
    with pytest.raises(ConfigError, match=r"config\.model\.num_hidden must be a whole"):
        made("rbm_digits", (8, 8, 1), num_hidden=0)
    with pytest.raises(ConfigError, match="needs images"):
        made("rbm_digits", (2,))


MEANS, SHARES, S = np.array([[-1.5, 0.5], [1.0, -0.5]]), np.array([0.7, 0.3]), 0.3


def mixture_score(x, sigma):
    """Score of two round Gaussians with noise sigma added, float64 [N, 2]."""
    v = S**2 + sigma**2
    offsets = MEANS - np.asarray(x, np.float64)[:, None]
    log_shares = np.log(SHARES) - (offsets**2).sum(-1) / (2 * v)
    return (special.softmax(log_shares, axis=1)[..., None] * offsets).sum(1) / v


def test_ncsn_learns_the_score_of_a_mixture():
    """The score's error in units of sigma, over the noisy data, against its size.

    At each level E |sigma score|^2 is about one or two; a fiftieth is left.
    """
    method = made(
        "ncsn_ring", (2,), network=dict(features=(64, 64)),
        sigma_max=4.0, sigma_min=0.2, num_levels=4,
    )  # fmt: skip
    random = np.random.RandomState(0)
    label = random.choice(2, p=SHARES, size=1024)
    points = MEANS[label] + S * random.normal(size=(1024, 2))
    batch = {"point": jnp.asarray(points, jnp.float32)}
    params, state = method.init(KEY, batch)
    player, tx = method.players[0], optax.adam(optax.cosine_decay_schedule(5e-3, 600))

    def step(carry, key):
        params, opt_state = carry
        grads, _ = jax.grad(player.loss, has_aux=True)(
            params, state, batch, key, step=0, train=True
        )
        updates, opt_state = tx.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    train = jax.jit(lambda carry: jax.lax.scan(step, carry, jax.random.split(KEY, 600)))
    (params, _), _ = train((params, tx.init(params)))
    model = method.init.__self__
    for level, sigma in enumerate(model.sigmas):
        x = points + sigma * random.normal(size=points.shape)
        index = jnp.full(len(x), level)
        found = model.score_fn(params)(jnp.asarray(x, jnp.float32), index)
        true = mixture_score(x, sigma)
        assert np.mean((found - true) ** 2) < 0.02 * np.mean(true**2)


class GaussianScore(nn.Module):
    """The exact output for pairs of pixels of covariance C, undoing the scaling."""

    sigmas: tuple[float, ...]

    @nn.compact
    def __call__(self, x, t, *, train):
        index = jnp.round(t * len(self.sigmas) / 1000).astype(int)
        sigma = jnp.asarray(self.sigmas)[index][:, None]
        flat = x.reshape(len(x), 2) * jnp.sqrt(1 + sigma**2)
        values, vectors = np.linalg.eigh(C)
        along = (flat @ vectors) / (values + sigma**2)
        return (-sigma * along @ vectors.T).reshape(x.shape)


C = 0.25 * np.array([[1.0, 0.8], [0.8, 1.0]])


def gaussian_pairs(num):
    """(method on the exact scores of pairs of pixels, keys)."""
    sigmas = np.geomspace(3, 0.05, 25)
    walk = ncsn_file.Walk(30, 0.1, 1.0, True, 0.3)
    model = ncsn_file.Scores(GaussianScore(tuple(sigmas)), sigmas, (1, 2, 1), walk)
    return model, jax.random.split(KEY, num)


def test_ncsn_scores_are_those_of_the_data_with_noise():
    """-(C + sigma^2)^-1 x at each level, by numpy's solve; `first` skips levels."""
    model, _ = gaussian_pairs(1)
    x = np.random.RandomState(0).normal(size=(25, 1, 2, 1))
    score_fn = model.score_fn({"score": {}}, first=5)
    found = score_fn(jnp.asarray(x, jnp.float32), jnp.arange(20).repeat(2)[:25])
    for i in range(25):
        noisy = C + model.sigmas[5 + i // 2] ** 2 * np.eye(2)
        expected = -np.linalg.solve(noisy, x[i].ravel())
        np.testing.assert_allclose(found[i].ravel(), expected, rtol=1e-3, atol=1e-4)


def test_ncsn_samples_and_completes_by_an_exact_score():
    """Normal pairs: given x1, the other has mean 0.8 x1 and variance 0.36 s^2.

    The last denoising and finite steps cost a few percent.
    """
    num = 4000
    model, keys = gaussian_pairs(num)
    params = {"score": {}}
    drawn = jax.jit(model.sample)(params, {}, keys, {}).reshape(num, 2)
    np.testing.assert_allclose(np.cov(drawn.T), C, atol=0.04)
    images = jnp.full((num, 1, 2, 1), 0.5)
    known = jnp.zeros((num, 1, 2), bool).at[..., 0].set(True)
    whole = jax.jit(model.complete)(params, {}, keys, images, known, {})
    np.testing.assert_array_equal(whole[:, 0, 0], 0.5)
    other = whole[:, 0, 1, 0]
    assert abs(other.mean() - 0.4) < 0.04
    assert abs(other.std() - 0.3) < 0.04


def test_ncsn_denoises_by_climbing():
    """All the way up a Gaussian's density lies its mean; pairs agree on the way.

    Both eigenvalues of the map are below 1; that of the unlikely direction is less.
    """
    model, keys = gaussian_pairs(2)
    images = jnp.array([[1.0, 1.0], [1.0, -1.0]]).reshape(2, 1, 2, 1)
    mended = model.denoise({"score": {}}, {}, keys, images, {}).reshape(2, 2)
    assert np.abs(mended[1]).max() < 0.5 * np.abs(mended[0]).min()
    assert 0 < mended[0].max() < 1


def test_ncsn_refuses_what_it_cannot_be():
    with pytest.raises(ConfigError, match="0 < sigma_min <= sigma_max"):
        made("ncsn_ring", (2,), sigma_min=2.0)
    with pytest.raises(ConfigError, match="activation must be one of"):
        made("ncsn_ring", (2,), network=dict(activation="step"))
    with pytest.raises(ConfigError, match="num_levels must be a whole"):
        made("ncsn_ring", (2,), num_levels=0)
