"""What the methods in methods/diffusion add to the losses and samplers they bind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipes

from genjax import data, images, methods
from genjax.config import ConfigError
from genjax.methods.diffusion._gaussian import (
    make_classifier,
    make_denoiser,
    make_sampler,
)
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


def test_deterministic_samples_are_the_decoded_prior():
    """Without guidance or noise on the way; a schedule that keeps something to its end.

    And what a key draws is what that key's sample starts from, whatever the batch.
    """
    schedule = dict(name="linear", num_steps=20, beta_min=0.01, beta_max=0.3)
    sampler = dict(name="ddim", num_steps=5)
    method, params, state, batch = made(sampler=sampler, schedule=schedule)
    keys, cond = sampling.image_keys(0, 4), {"label": batch["label"][:4]}
    latents = method.prior(params, state, keys, cond)
    assert latents.shape == (4, 8, 8, 1) and latents.dtype == jnp.float32
    drawn = jax.jit(method.sample)(params, state, keys, cond)
    decoded = jax.jit(method.decode)(params, state, latents, cond)
    np.testing.assert_allclose(drawn, decoded, atol=1e-5)
    again = method.prior(params, state, keys[2:], {"label": cond["label"][2:]})
    np.testing.assert_array_equal(latents[2:], again)
    many = method.prior(params, state, sampling.image_keys(1, 500), {})
    # Standard normals, 32,000 of them: standard errors 1 / 179 and 1 / 126.
    assert abs(many.mean()) < 4 / 179 and abs(many.std() - 1) < 4 / 126 / 2**0.5


def test_latents_bring_an_image_back_through_an_imperfect_network():
    """The recipe's schedule ends at a = 2e-9, where any error of eps is 2e4 times as
    large in x0; a fixed error of 0.05 stands for that of a trained network.
    """
    config = recipes.get("ddpm_digits", "")
    config, _ = phases.resolve(config)
    model = config.model.to_dict()
    denoiser = make_denoiser(
        config, schedule=model["schedule"], network=model["network"]
    )
    a = jnp.asarray(denoiser.alphas_cumprod, jnp.float32)

    def eps_fn(x_t, t):  # Exact for white images of variance 1/4, and a wave.
        kept = a[t][:, None, None, None]
        best = jnp.sqrt(1 - kept) * x_t / (kept / 4 + 1 - kept)
        return best + 0.05 * jnp.sin(5 * x_t)

    x0 = 0.5 * jax.random.normal(jax.random.key(0), (4, 8, 8, 1)).clip(-2, 2)
    errors = []
    for num_steps in (50, 200):
        sampler = make_sampler(denoiser, name="ddim", num_steps=num_steps)
        latents = sampler.encode(eps_fn, x0)
        back = sampler.decode(eps_fn, latents)
        errors.append(float(jnp.sqrt(jnp.mean(jnp.square(back - x0)))))
        assert 0.8 < latents.std() < 1.2 and jnp.abs(back).max() <= 1
    assert errors[1] < errors[0] / 2 < 0.03
    assert list(make_sampler(denoiser, num_steps=1).invertible_steps) == [999]


def test_fourier_features_see_neighbouring_steps_as_neighbours():
    """Of a t in 0..999 itself, the frequencies of order 16 would make a random hash."""
    config, _ = phases.resolve(recipes.get("ddpm_digits"))
    denoiser = make_denoiser(
        config,
        schedule=dict(name="cosine", num_steps=1000),
        network=dict(
            features=32,
            multipliers=(1,),
            attention_resolutions=(),
            time_features="fourier",
        ),
    )
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 1)).repeat(4, axis=0)
    params = denoiser.init(
        jax.random.key(1), {"image": np.zeros((1, 8, 8, 1), np.uint8)}
    )
    random = np.random.RandomState(0)
    params = jax.tree.map(
        lambda p: p + 0.1 * random.standard_normal(p.shape), params[0]
    )
    y = denoiser.predict_fn(params, None)(x, jnp.array([500, 501, 700, 900]))
    near, far, farther = (jnp.linalg.norm(y[i] - y[0]) for i in (1, 2, 3))
    assert 0 < near < 0.2 * min(far, farther)


def test_classifier_guidance_follows_the_classifier():
    """Scale 0 is the denoiser alone; a scale raises what the classifier thinks."""
    config, _ = phases.resolve(recipes.get("guidance_digits"))
    config.init_from = ()
    method = methods.load(config)
    batch = {"image": np.zeros((1, 8, 8, 1), np.uint8), "label": np.zeros(1, np.int32)}
    params, _ = method.init(jax.random.key(0), batch)
    random = np.random.RandomState(0)
    params["classifier"] = jax.tree.map(
        lambda p: p + 0.2 * random.standard_normal(p.shape), params["classifier"]
    )
    keys, label = jax.random.split(jax.random.key(1), 6), jnp.arange(6)
    classifier = make_classifier(config, config.model.classifier.to_dict(), 20)

    def log_prob(x):
        logits = classifier.apply(
            {"params": params["classifier"]}, x, jnp.zeros(6, int), train=False
        )
        return jax.nn.log_softmax(logits)[jnp.arange(6), label].mean()

    for name in ("ddpm", "ddim"):
        drawn = {}
        for scale in (0.0, 30.0):
            config.sampler = dict(name=name, guidance_scale=scale)
            sample = jax.jit(methods.load(config).sample)
            drawn[scale] = sample(params, {}, keys, {"label": label})
            if not scale:
                other = sample(params, {}, keys, {"label": label[::-1]})
                np.testing.assert_allclose(drawn[0.0], other, atol=1e-5)
        assert log_prob(drawn[30.0]) > log_prob(drawn[0.0]) + 0.1, name


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"label_to_denoiser": True, "denoiser__conditional": False}, "conditional"),
        ({"denoiser__label_dropout": 0.0}, "label_dropout above 0"),
    ],
)
def test_a_denoiser_that_does_not_fit_the_guidance_is_refused(changes, words):
    config = recipes.get("guidance_digits")
    config.init_from = ()
    with config.model.unlocked():
        config.model.update_from_flattened_dict(
            {k.replace("__", "."): v for k, v in changes.items()}
        )
    with pytest.raises(ConfigError, match=words):
        phases.build(config)


def test_a_level_that_cannot_attend_is_named():
    with pytest.warns(UserWarning, match=r"at \[7\].*shorter sides.* are \[8\]"):
        made(network__attention_resolutions=(8, 7))


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
        ({"variance": "lrage"}, "config.model.variance"),
        ({"network__dtype": "bfloat16"}, r"leave \['dtype'\] out"),
        ({"network__num_classes": 5}, r"leave \['num_classes'\] out"),
        ({"network__head_features": 5}, "head_features=5"),
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
