"""The prior over a VQ-VAE's codes: all grids sum to one, and only the prior learns."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipes
from pixel_models import random_params

from genjax import methods
from genjax.config import ConfigError, base_config
from genjax.methods.autoregressive import vq_prior
from genjax.samplers import autoregressive
from genjax.train import checkpoints, loop, phases

PRIORS = {
    "gated_pixelcnn": dict(features=4, num_layers=2, out_features=4),
    "transformer": dict(features=8, num_blocks=2, num_heads=2),
}
GRID, NUM_CODES = (2, 2, 1), 3


def config_of(name, *, incremental=True, **model):
    """Images of 4 x 4 with a code of three for each quarter."""
    config = base_config()
    config.method = "autoregressive.vq_prior"
    config.data.shape, config.data.num_classes = (4, 4, 1), 3
    config.sampler = dict(incremental=incremental)
    vqvae = dict(network=dict(features=4, num_levels=1), num_codes=NUM_CODES)
    config.model = dict(
        vqvae={**vqvae, "latent_features": 2},
        prior=dict(name=name, **PRIORS[name]),
        conditional=name == "gated_pixelcnn",
    )
    config.model.update(model)
    return config


def made(name, **changes):
    """The method, random params, the codebook of a batch, and that batch."""
    method = methods.load(config_of(name, **changes))
    image = np.random.RandomState(0).randint(256, size=(6, 4, 4, 1)).astype(np.uint8)
    batch = dict(image=jnp.asarray(image), label=jnp.arange(6) % 3)
    _, state = jax.jit(method.init)(jax.random.key(0), batch)
    return method, random_params(method, batch), state, batch


@pytest.fixture(scope="module", params=PRIORS)
def model(request):
    return request.param, *made(request.param)


def log_likelihood(name, params, codes, label):
    """log P(codes) [B] of the prior alone."""
    config = config_of(name)
    head = vq_prior.CodeHead("categorical", GRID, NUM_CODES)
    conditional = config.model.conditional
    prior = vq_prior.over_codes(config, head, config.model.prior, conditional)
    batch = dict(code=codes, label=label)
    return jax.jit(prior.log_likelihood)(params, {}, jax.random.key(0), batch)[0]


def test_probabilities_of_all_grids_of_codes_sum_to_one(model):
    name, _, params, *_ = model
    every = np.array(list(itertools.product(range(NUM_CODES), repeat=4)))
    label = jnp.full(len(every), 2)
    nats = log_likelihood(name, params, jnp.asarray(every).reshape(-1, 2, 2), label)
    assert np.ptp(nats) > 1
    assert abs(np.exp(np.float64(nats)).sum() - 1) < 1e-5


def test_the_loss_is_that_of_the_images_codes(model):
    name, method, params, state, batch = model
    codes = method.encode(params, state, jax.random.key(0), batch)
    assert codes.shape == (6, 2, 2) and len(np.unique(codes)) > 1
    (player,) = method.players
    loss, (changed, metrics) = player.loss(
        params, state, batch, jax.random.key(0), step=0, train=False
    )
    expected = -log_likelihood(name, params, codes, batch["label"]).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    bits = metrics["bits_per_code"]
    np.testing.assert_allclose(bits, expected / np.log(2) / 4, rtol=1e-4)
    assert not changed and player.networks == ("prior",)


def test_the_bound_is_the_priors_and_the_decoders(model):
    """The decoder's term is the VQ-VAE's own, which is tested with it."""
    name, method, params, state, batch = model
    state = {**state, "error": jnp.float32(0.2)}
    nats, parts = method.log_likelihood(params, state, jax.random.key(0), batch)
    codes = method.encode(params, state, jax.random.key(0), batch)
    log_prior = log_likelihood(name, params, codes, batch["label"])
    np.testing.assert_allclose(-parts["codes"], log_prior, rtol=1e-4)
    config = config_of(name)
    config.method, config.model = "vae.vqvae", config.model.vqvae
    alone = methods.load(config)
    _, terms = alone.log_likelihood(params, state, jax.random.key(0), batch)
    np.testing.assert_allclose(
        parts["reconstruction"], terms["reconstruction"], rtol=1e-5
    )
    np.testing.assert_allclose(nats, log_prior - terms["reconstruction"], rtol=1e-4)
    assert method.bound


def test_samples_are_decoded_codes_that_both_samplers_draw_alike(model, monkeypatch):
    name, method, params, state, _ = model
    totals = []

    def recorded(*args, sample=autoregressive.sample, **kwargs):
        levels, log_prob = sample(*args, **kwargs)
        totals.append(log_prob)
        return levels, log_prob

    monkeypatch.setattr(autoregressive, "sample", recorded)
    keys = jax.random.split(jax.random.key(1), 30)
    cond = dict(label=jnp.arange(30) % 3)
    draw = jax.jit(lambda *args: (method.prior(*args), totals.pop()))
    codes, log_prob = draw(params, state, keys, cond)
    assert codes.dtype == jnp.int32 and len(np.unique(codes)) == NUM_CODES
    expected = log_likelihood(name, params, codes, cond["label"])
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4)
    slow = methods.load(config_of(name, incremental=False))
    np.testing.assert_array_equal(slow.prior(params, state, keys, cond), codes)
    images = method.sample(params, state, keys, cond)
    decoded = method.decode(params, state, codes, cond)
    np.testing.assert_allclose(images, decoded, atol=1e-5)
    assert images.shape == (30, 4, 4, 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The tiny recipe, trained: two steps of the VQ-VAE, then two of the prior."""
    workdir = tmp_path_factory.mktemp("run")
    config = recipes.get("vq_prior_digits")
    config.eval_every = 0
    config.checkpoint.update(every=2, keep=2)
    assert loop.train(config, workdir)
    return workdir


def test_the_second_phase_trains_the_prior_alone(run):
    first, last = (checkpoints.load_weights(run, step) for step in (2, 4))
    assert first.config.method == "vae.vqvae" and "prior" not in first.params
    assert last.config.method == "autoregressive.vq_prior"
    for name in ("encoder", "decoder"):
        jax.tree.map(
            np.testing.assert_array_equal, first.params[name], last.params[name]
        )
    jax.tree.map(
        np.testing.assert_array_equal,
        first.model_state["codebook"],
        last.model_state["codebook"],
    )
    assert (run / "samples" / "00000004.png").exists()


def start(run, **model):
    """The state that a prior starts from with the VQ-VAE of a run."""
    config = recipes.get("vq_prior_digits")
    config.phases = ()
    config.init_from = (dict(workdir=str(run), step=2),) if run else ()
    config.model.vqvae.update(model)
    (phase,) = phases.build(config)
    return phases.start_state(phase, None)


def test_init_from_brings_what_the_first_phase_would(run):
    state, weights = start(run), checkpoints.load_weights(run)
    for name in ("encoder", "decoder"):
        jax.tree.map(
            np.testing.assert_array_equal, state.params[name], weights.params[name]
        )
    jax.tree.map(np.testing.assert_array_equal, state.model_state, weights.model_state)
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), state.params["prior"], weights.params["prior"]
    )
    assert max(jax.tree.leaves(moved)) > 0


def test_a_vqvae_that_is_not_trained_or_another_is_refused(run):
    with pytest.raises(ConfigError, match=r"no player trains .* arrays"):
        start(None)
    with pytest.raises(ConfigError, match=r"no player trains 2 .*'codebook'.*'counts'"):
        start(run, num_codes=6)
    with pytest.raises(ConfigError, match=r"no player trains 1 .*'codebook'.*'codes'"):
        start(run, codebook="gradient")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(prior=dict(name="pixelcnn")), "config.model.prior.name must be one of"),
        (dict(prior=dict(name="transformer")), "the transformer takes no label"),
        (
            dict(prior=dict(name="gated_pixelcnn", kernel_size=4)),
            "config.model.prior.kernel_size must be odd",
        ),
        (
            dict(prior=dict(name="gated_pixelcnn", num_codes=4)),
            "config.model.prior must leave 'num_codes' out",
        ),
        (dict(vqvae=dict(num_codes=1)), "num_codes must be at least 2"),
        (dict(vqvae=dict(decay=2)), "config.model.vqvae.decay must lie in"),
    ],
)
def test_bad_values_are_refused_before_compiling(changes, message):
    config = config_of("gated_pixelcnn")
    for section, fields in changes.items():
        if "name" in fields:
            config.model[section] = fields
        else:
            config.model[section].update(fields)
    with pytest.raises(ConfigError, match=message):
        methods.load(config)
