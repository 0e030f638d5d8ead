"""What the methods in methods/diffusion add to the losses and samplers they bind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipes

from genjax import data, images, methods
from genjax.config import ConfigError
from genjax.methods.diffusion.ddpm import WEIGHTS
from genjax.train import phases, sampling


def made(name="ddpm_digits", sampler=None, **changes):
    """(method, params, model_state, batch) of a tiny recipe, with its model changed."""
    config = recipes.get(name)
    config.data.name, config.data.data_dir = "digits", None
    if sampler is not None:
        config.sampler = sampler
    with config.model.unlocked():
        for path, value in changes.items():
            *parents, last = path.split("__")
            target = config.model
            for parent in parents:
                target = target[parent]
            target[last] = value
    (phase,) = phases.build(config)
    key, batch = phases.example(phase)
    params, model_state = phase.method.init(key, batch)
    # Zero-initialised outputs hide what their inputs do.
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    moved = [
        x + 0.1 * jax.random.normal(k, x.shape)
        for x, k in zip(leaves, keys, strict=True)
    ]
    return phase.method, jax.tree.unflatten(tree, moved), model_state, batch


def loss_of(method, params, model_state, batch, train=True):
    (player,) = method.players
    return jax.jit(
        lambda p, b: player.loss(
            p, model_state, b, jax.random.key(3), step=0, train=train
        )
    )(params, batch)


@pytest.mark.parametrize("name", ["ddpm_digits", "improved_ddpm_cifar"])
@pytest.mark.parametrize(
    "dropout, train, matters",
    [(1.0, True, False), (1.0, False, True), (0.0, True, True)],
)
def test_dropped_labels_do_not_reach_the_network(name, dropout, train, matters):
    changes = dict(conditional=True, label_dropout=dropout)
    method, params, state, batch = made(name, sampler={}, **changes)
    other = {**batch, "label": (batch["label"] + 1) % 10}
    a, _ = loss_of(method, params, state, batch, train)
    b, _ = loss_of(method, params, state, other, train)
    assert bool(abs(a - b) > 1e-6) == matters


def test_guidance_scale_zero_forgets_the_label_and_one_is_the_conditional_model():
    """eps_u + s (eps_c - eps_u) through the whole method, from the same noise."""
    draws = {}
    for scale in (0.0, 1.0, 3.0):
        config = recipes.get("ddpm_digits")
        config.sampler = dict(
            name="ddim", num_steps=4, guidance_scale=scale, clip=False
        )
        (phase,) = phases.build(config)
        _, params, _, _ = made()
        keys = jax.random.split(jax.random.key(0), 2)
        label = jnp.array([3, 3])
        for i, cond in enumerate((label, label + 1)):
            draws[scale, i] = phase.method.sample(params, {}, keys, {"label": cond})
    np.testing.assert_allclose(draws[0.0, 0], draws[0.0, 1], atol=1e-4)
    assert np.abs(draws[1.0, 0] - draws[1.0, 1]).max() > 1e-3
    assert np.abs(draws[3.0, 0] - draws[1.0, 0]).max() > 1e-3


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("weighting", WEIGHTS)
def test_every_prediction_and_weighting_is_a_finite_loss(prediction, weighting):
    method, params, state, batch = made(prediction=prediction, weighting=weighting)
    loss, (changed, _) = loss_of(method, params, state, batch)
    assert np.isfinite(loss) and loss > 0 and not changed


def test_the_vlb_objective_remembers_one_loss_an_image():
    """B = 8 images, so the counts of the importance sampler rise by 8."""
    method, params, state, batch = made("improved_ddpm_cifar", objective="vlb")
    assert state["importance"]["history"].shape == (20, 10)
    loss, (changed, _) = loss_of(method, params, state, batch)
    assert np.isfinite(loss)
    assert changed["importance"]["counts"].sum() == 8
    assert np.count_nonzero(changed["importance"]["history"]) == 8


def test_the_hybrid_loss_is_near_the_simple_one():
    """lambda = 0.001 adds little: the untrained bound is some nats a pixel."""
    loss = {}
    for weight in (0.0, 0.001):
        method, params, state, batch = made("improved_ddpm_cifar", vlb_weight=weight)
        loss[weight], _ = loss_of(method, params, state, batch)
    assert loss[0.0] < loss[0.001] < 10 * loss[0.0]


def test_ddim_latents_decode_to_the_images_they_came_from():
    """A network that says eps = 0 makes each step a scaling: an exact inverse."""
    config = recipes.get("ddpm_digits")
    config.sampler = dict(name="ddim")
    (phase,) = phases.build(config)
    key, batch = phases.example(phase)
    params, _ = phase.method.init(key, batch)
    latents = phase.method.encode(params, {}, key, batch)
    back = phase.method.decode(params, {}, latents, batch)
    np.testing.assert_allclose(back, images.to_float(batch["image"]), atol=1e-3)


def test_the_noisy_classifier_learns_digits():
    """Forty steps of the tiny recipe's network: far above a chance of one in ten."""
    import optax

    config = recipes.get("noisy_classifier_digits")
    config.model.network.update(features=16)
    method = methods.load(phases.resolve(config)[0])
    columns = data.load(config.data).train.columns
    (player,) = method.players
    batch = {k: jnp.asarray(v[:256]) for k, v in columns.items()}
    params, state = method.init(jax.random.key(0), batch)
    tx = optax.adam(3e-3)

    @jax.jit
    def run(params):
        def step(carry, key):
            params, opt = carry
            (_, (_, metrics)), grads = jax.value_and_grad(
                lambda p: player.loss(p, state, batch, key, step=0, train=True),
                has_aux=True,
            )(params)
            updates, opt = tx.update(grads, opt, params)
            return (optax.apply_updates(params, updates), opt), metrics["accuracy"]

        keys = jax.random.split(jax.random.key(1), 60)
        return jax.lax.scan(step, (params, tx.init(params)), keys)[1]

    accuracy = run(params)
    assert accuracy[:5].mean() < 0.3 and accuracy[-5:].mean() > 0.5


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"variance": "learned"}, "improved_ddpm"),
        ({"weighting": "min_snrr"}, "'min_snr'"),
        ({"schedule__name": "cosin"}, "cosine"),
        ({"schedule__beta_max": 0.5}, "beta_max"),
        ({"prediction": "noise"}, "'eps'"),
        ({"label_dropout": 10}, r"in \[0, 1\]"),
    ],
)
def test_model_errors_say_what_there_is(changes, words):
    with pytest.raises(ConfigError, match=words):
        made(**changes)


@pytest.mark.parametrize(
    "sampler, changes, words",
    [
        ({"guidance_scale": 2}, {"conditional": False}, "conditional=True"),
        ({"guidance_scale": 2}, {"label_dropout": 0.0}, "label_dropout=0.1"),
        ({"variance": "learned"}, {}, "improved_ddpm"),
        ({"name": "ddpm", "eta": 0.5}, {}, "'ddim'"),
    ],
)
def test_a_sampler_that_the_network_was_not_trained_for_is_refused(
    sampler, changes, words
):
    with pytest.raises(ConfigError, match=words):
        made(sampler=sampler, **changes)


@pytest.mark.parametrize("name", ["ddpm_digits", "noisy_classifier_digits"])
def test_dtypes_that_training_cannot_use_are_refused(name):
    config = recipes.get(name)
    config.dtype = "float33"
    with pytest.raises(ConfigError, match=r"config.dtype .*'float32'"):
        phases.build(config)


def test_a_label_for_a_model_without_labels_is_refused():
    config = recipes.get("improved_ddpm_cifar")
    config.data.name, config.data.data_dir = "digits", None
    (phase,) = phases.build(config)
    assert sampling.make_cond(phase.method, phase.config, 4) == {}
    with pytest.raises(ConfigError, match="without labels"):
        sampling.make_cond(phase.method, phase.config, 4, label="7")
