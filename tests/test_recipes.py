"""Tiny variants on the data that their recipes name."""

import numpy as np
import pytest
import recipes
from PIL import Image

from genjax.train import checkpoints, loop, phases


@pytest.mark.parametrize(
    "name",
    [
        "ddpm_cifar",
        "vae_mnist",
        "dcgan_mnist",
    ],
)
def test_tiny_variants_run_on_real_data(name, tfds_data_dir, tmp_path):
    config = recipes.get(name)
    config.data.data_dir = tfds_data_dir
    config.sample_every = 0
    assert loop.train(config, tmp_path)
    weights = checkpoints.load_weights(tmp_path)
    assert weights.step == 2
    shape = {"tfds:mnist": (28, 28, 1), "tfds:cifar10": (32, 32, 3)}
    assert tuple(weights.config.data.shape) == shape[config.data.name]


def test_a_folder_of_oblong_pictures_trains_and_draws(tmp_path):
    random = np.random.RandomState(0)
    for i in range(20):
        path = tmp_path / "my pictures" / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        pixels = random.randint(256, size=(40 + i, 70, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    config = recipes.get("ddpm_folder")
    config.data.update(name=f"folder:{tmp_path / 'my pictures'}", image_size=(16, 24))
    assert loop.train(config, tmp_path / "run")
    assert (tmp_path / "run" / "samples" / "00000002.png").exists()
    weights = checkpoints.load_weights(tmp_path / "run")
    assert tuple(weights.config.data.shape) == (16, 24, 3)


def test_ddpm_cifar_is_appendix_b():
    """35.7M parameters (arXiv:2006.11239, App. B); exactly 35,746,307 in its code."""
    import jax

    config = recipes.get("ddpm_cifar", "")
    config.data.name = "digits"  # Needs no files; the shape is set below.
    config, _ = phases.resolve(config)
    config.data.shape = (32, 32, 3)
    method = phases.methods.load(config)
    batch = {"image": jax.ShapeDtypeStruct((8, 32, 32, 3), np.uint8)}
    params, _ = jax.eval_shape(method.init, jax.random.key(0), batch)
    assert sum(x.size for x in jax.tree.leaves(params)) == 35_746_307
    assert config.num_steps == 800_000
    assert config.optimizers.denoiser.learning_rate == 2e-4
    assert config.ema.decay == 0.9999 and config.model.network.dropout == 0.1
    assert config.data.random_flip
