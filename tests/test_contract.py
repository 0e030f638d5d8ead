"""Every file in methods/, found unasked, keeps the contract of genjax.types."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import recipes

from genjax import methods
from genjax.train import checkpoints, phases, sampling, sharding
from genjax.train.state import TrainState
from genjax.train.step import make_train_step

METHODS = methods.names()


def test_there_are_methods():
    assert "diffusion.ddpm" in METHODS


def random_state(state: TrainState) -> TrainState:
    """Moves every weight, so that zero initialisation hides no gradient."""
    leaves, structure = jax.tree.flatten(state.params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [
        x + 0.05 * jax.random.normal(k, x.shape, x.dtype)
        for x, k in zip(leaves, keys, strict=True)
    ]
    return state.replace(params=jax.tree.unflatten(structure, moved))


def rows_of(batch) -> tuple[int]:
    """(B,), of images or points."""
    return batch["image" if "image" in batch else "point"].shape[:1]


@pytest.fixture(scope="module", params=METHODS)
def made(request, tmp_path_factory):
    """(phase, state) of the method's tiny recipe."""
    folder = tmp_path_factory.mktemp("data")
    config = recipes.get(recipes.of_method(request.param))
    config = recipes.without_files(config, folder)
    config.init_from = ()
    phase = phases.build(config)[-1]
    key, batch = phases.example(phase)
    state = jax.jit(lambda k, b: phases.initial(phase, k, b))(key, batch)
    return phase, random_state(state)


def test_players_are_disjoint_and_own_real_networks(made):
    phase, state = made
    owned = [name for player in phase.method.players for name in player.networks]
    assert len(owned) == len(set(owned))
    assert set(owned) <= set(state.params)
    names = [player.name for player in phase.method.players]
    assert len(names) == len(set(names))


@pytest.fixture(scope="module")
def step(made):
    """The compiled step of all players: (state, batch, key) -> (state, metrics)."""
    phase, state = made
    if not phase.method.players:
        pytest.skip("nothing is trained")
    return phases.jit_train_step(phase, placed(phase, state))


def placed(phase, state):
    """A copy that may be donated, where the runner would have it."""
    return jax.tree.map(
        lambda x, a: jax.device_put(x.copy(), a.sharding),
        state,
        phases.abstract_state(phase),
    )


def next_batch(phase, batches):
    """The next batch, as the runner gives it to the step."""
    batch = {k: v for k, v in next(batches).items() if k != "index"}
    return sharding.to_global(batch, sharding.split(phase.mesh, 1))


def test_each_player_moves_all_its_weights_and_no_other(made, step):
    """With the other players' gradients left out, a step changes one player's share."""
    phase, state = made
    batch = next_batch(phase, phase.batches())
    players = phase.method.players
    for player in players:
        alone = step
        if len(players) > 1:
            alone = make_train_step(
                replace(phase.method, players=(player,)),
                phase.optimizers,
                phase.rates,
                phase.config,
            )
            alone = jax.jit(alone)
        # The second step: a warm-up starts at a learning rate of zero.
        after = placed(phase, state)
        for _ in range(2):
            after, metrics = alone(after, batch, jax.random.key(0))
        assert not metrics["bad"]
        for name in state.params:
            moved = jax.tree.map(
                lambda a, b: bool((a != b).any()),
                state.params[name],
                after.params[name],
            )
            flat, _ = jax.tree_util.tree_flatten_with_path(moved)
            expected = name in player.networks
            wrong = [jax.tree_util.keystr(p) for p, m in flat if m is not expected]
            assert not wrong, f"{player.name} and {name}: {wrong}"


def test_one_compilation_serves_every_step(made, step):
    phase, state = made
    batches, state = phase.batches(), placed(phase, state)
    first, *others = (next_batch(phase, batches) for _ in range(3))
    state, _ = step(state, first, key := phase.key())
    with jax.no_tracing(True):
        for batch in others:
            state, _ = step(state, batch, key)
    assert state.step == 3


def test_samples_have_the_data_shape_and_range_and_one_key_each(made):
    phase, state = made
    if phase.method.sample is None:
        pytest.skip("the method draws nothing")
    sample = jax.jit(phase.method.sample)

    def draw(rows):
        keys = sampling.image_keys(0, 6)[rows]
        cond = sampling.make_cond(phase.method, phase.config, 6)
        cond = {name: value[rows] for name, value in cond.items()}
        return np.asarray(sample(state.params, state.model_state, keys, cond))

    images = draw(np.arange(6))
    assert images.shape == (6, *phase.config.data.shape)
    assert np.isfinite(images).all()
    assert images.min() < -0.05 and images.max() > 0.05
    assert np.abs(images).max() < 5  # Not yet uint8 levels; about [-1, 1] when trained.
    np.testing.assert_allclose(draw(np.array([4, 1, 3])), images[[4, 1, 3]], atol=2e-4)
    assert np.abs(images[0] - images[1]).max() > 0.05


def test_likelihoods_are_one_number_an_image_and_their_parts_add_up(made):
    phase, state = made
    if phase.method.log_likelihood is None:
        pytest.skip("the method has no likelihood")
    _, batch = phases.example(phase)
    nats, parts = jax.jit(phase.method.log_likelihood)(
        state.params, state.model_state, jax.random.key(0), batch
    )
    assert nats.shape == rows_of(batch) and np.isfinite(nats).all()
    if parts:
        np.testing.assert_allclose(sum(parts.values()), -nats, rtol=1e-5)


def test_energies_are_one_number_an_example_and_tell_examples_apart(made):
    phase, state = made
    if phase.method.energy is None:
        pytest.skip("the method has no energy")
    _, batch = phases.example(phase)
    energy = jax.jit(phase.method.energy)(state.params, state.model_state, batch)
    assert energy.shape == rows_of(batch) and np.isfinite(energy).all()
    assert np.ptp(energy) > 0


def test_completions_keep_what_is_known_and_draw_the_rest_by_their_keys(made):
    phase, state = made
    if phase.method.complete is None:
        pytest.skip("the method completes nothing")
    _, batch = phases.example(phase)
    cond = {name: batch[name][:4] for name in phase.method.cond}
    shown = np.where(np.asarray(batch["image"][:4]) > 127, 1.0, -1.0)
    known = np.zeros(shown.shape[:3], bool)
    known[:, : known.shape[1] // 2] = True
    complete = jax.jit(phase.method.complete)
    weights = state.params, state.model_state

    def draw(seed, rows):
        keys = sampling.image_keys(seed, 4)[rows]
        own = {name: value[rows] for name, value in cond.items()}
        return np.asarray(complete(*weights, keys, shown[rows], known[rows], own))

    drawn = draw(0, np.arange(4))
    assert drawn.shape == shown.shape and np.isfinite(drawn).all()
    np.testing.assert_allclose(drawn[known], shown[known], atol=1e-5)
    assert np.abs(draw(1, np.arange(4)) - drawn)[~known].max() > 0.05
    np.testing.assert_allclose(draw(0, np.array([2, 0])), drawn[[2, 0]], atol=2e-4)


def test_denoised_images_keep_their_shape_and_are_moved(made):
    phase, state = made
    if phase.method.denoise is None:
        pytest.skip("the method denoises nothing")
    _, batch = phases.example(phase)
    cond = {name: batch[name] for name in phase.method.cond}
    shape = batch["image"].shape
    noisy = jax.random.normal(jax.random.key(1), shape)
    keys = sampling.image_keys(0, shape[0])
    mended = jax.jit(phase.method.denoise)(
        state.params, state.model_state, keys, noisy, cond
    )
    assert mended.shape == shape and np.isfinite(mended).all()
    assert np.abs(mended - noisy).max() > 0


def test_decode_inverts_encode_in_shape(made):
    phase, state = made
    if phase.method.encode is None or phase.method.decode is None:
        pytest.skip("the method has no latents to walk in")
    _, batch = phases.example(phase)
    latents = jax.jit(phase.method.encode)(
        state.params, state.model_state, jax.random.key(0), batch
    )
    cond = {name: batch[name] for name in phase.method.cond}
    images = jax.jit(phase.method.decode)(
        state.params, state.model_state, latents, cond
    )
    data = batch["image" if "image" in batch else "point"]
    assert images.shape == data.shape and np.isfinite(images).all()


def test_decoded_latents_of_the_prior_are_samples_in_shape(made):
    phase, state = made
    if phase.method.prior is None:
        pytest.skip("the method has no latents to draw")
    cond = sampling.make_cond(phase.method, phase.config, 4)

    def latents(rows):
        keys, own = (
            sampling.image_keys(0, 4)[rows],
            {k: v[rows] for k, v in cond.items()},
        )
        return phase.method.prior(state.params, state.model_state, keys, own)

    z = latents(np.arange(4))
    np.testing.assert_allclose(
        latents(np.array([2, 0])), z[np.array([2, 0])], atol=1e-5
    )
    decoded = jax.jit(phase.method.decode)(state.params, state.model_state, z, cond)
    assert decoded.shape == (4, *phase.config.data.shape)
    assert np.isfinite(decoded).all()


def test_checkpoint_round_trip(made, tmp_path):
    phase, state = made
    saved = checkpoints.Checkpoints(tmp_path, phase.config.checkpoint)
    saved.save(state, 3, config=phase.config, phase=0, data={"next_index": 1})
    saved.manager.wait_until_finished()
    restored = saved.restore(3, phases.abstract_state(phase))
    assert saved.position(3) == {"phase": 0, "data": {"next_index": 1}}
    saved.close()
    assert jax.tree.structure(state) == jax.tree.structure(restored)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    weights = checkpoints.load_weights(tmp_path)
    assert weights.config.to_dict() == phase.config.to_dict()
    for a, b in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(weights.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)
