"""What a trained method is asked beside samples and walks: to mend, and to weigh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from genjax import data, images
from genjax.config import ConfigError, choose
from genjax.train import writers
from genjax.train.sampling import image_keys
from genjax.train.tables import Model, Table, at_least, find_examples, look_up


def complete(
    model: Model,
    *,
    num: int = 8,
    points: int = 6,
    known: str = "top",
    label: str = "all",
) -> Table:
    """Real images, a half of which is hidden, and draws of what may have been there.

    Args:
        model: With a `complete`.
        num: The first so many images of the test split.
        points: Completions of each.
        known: The half that is kept: a key of `HALVES`.
        label: Or the first of these classes, in turn.
    """
    at_least(points, 1, "--points")
    method, index = model.method, find_examples(model, num, label)
    _, cond, arrays = look_up(model, index)
    real = arrays["real"]
    kept = np.broadcast_to(
        choose(HALVES, known, "--known")(*real.shape[1:3]), real.shape[:3]
    )
    hidden = np.where(kept[..., None], real, 128).astype(np.uint8)

    def fn(params, model_state, inputs):
        keys, hidden, kept, cond = inputs
        keys, x = jax.random.wrap_key_data(keys), images.to_float(hidden)
        drawn = method.complete(params, model_state, keys, x, kept, cond)
        return images.to_uint8(drawn)

    keys = np.asarray(jax.random.key_data(image_keys(model.seed, num * points)))
    rows = jax.tree.map(lambda x: x.repeat(points, 0), (hidden, kept, cond))
    drawn = model.in_batches(fn, (keys, *rows)).reshape(num, points, *real.shape[1:])
    cells = np.concatenate([real[:, None], hidden[:, None], drawn], axis=1)
    columns = ["real", "known", *(f"draw {i + 1}" for i in range(points))]
    captions = [f"{arrays['split']} {i}" for i in index]
    return Table(cells, captions, columns, arrays | {"images": drawn, "known": kept})


def denoise(
    model: Model, *, num: int = 16, sigma: float = 0.3, label: str = "all"
) -> Table:
    """Real images, the same with noise added, and what the model makes of those.

    Args:
        model: With a `denoise`.
        num: The first so many images of the test split.
        sigma: Standard deviation of the noise, where images lie in [-1, 1].
        label: Or the first of these classes, in turn.
    """
    if sigma < 0:
        raise ConfigError(f"--sigma must be at least 0, got {sigma}")
    method, index = model.method, find_examples(model, num, label)
    _, cond, arrays = look_up(model, index)

    def fn(params, model_state, inputs):
        keys, real, cond = inputs
        pairs = jax.vmap(jax.random.split)(jax.random.wrap_key_data(keys))
        eps = jax.vmap(lambda key: jax.random.normal(key, real.shape[1:]))(pairs[:, 0])
        noisy = images.to_float(real) + sigma * eps
        mended = method.denoise(params, model_state, pairs[:, 1], noisy, cond)
        return jnp.stack([real, images.to_uint8(noisy), images.to_uint8(mended)], 1)

    keys = np.asarray(jax.random.key_data(image_keys(model.seed, num)))
    cells = model.in_batches(fn, (keys, arrays["real"], cond))
    captions = [f"{arrays['split']} {i}" for i in index]
    arrays |= {"images": cells[:, 2], "noisy": cells[:, 1]}
    return Table(cells, captions, ["real", f"sigma {sigma:g}", "denoised"], arrays)


def density(model: Model, *, num: int = 5000, points: int = 150) -> Table:
    """Points of the data, samples, and the model's density on the same part of a plane.

    Args:
        model: Of points in the plane.
        num: Of the data and of samples.
        points: Places along each side at which the density is found.
    """
    at_least(points, 2, "--points")
    method = model.method
    real = data.gather(model.examples[1], np.arange(min(num, len(model.examples[1]))))
    real, edge = real["point"], 1.15 * float(np.abs(real["point"]).max())
    cells, columns = [writers.panel(points=real, edge=edge)], ["data"]
    arrays = {"real": real}
    if method.sample is not None:
        drawn, _ = dataclasses.replace(model, batch_size=min(num, 1000)).samples(num)
        cells.append(writers.panel(points=drawn, edge=edge))
        columns.append("samples")
        arrays["points"] = drawn
    if method.log_likelihood is not None or method.energy is not None:
        axis = np.linspace(-edge, edge, points, dtype=np.float32)
        plane = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
        log_density = model.log_density({"point": plane}).reshape(points, points)
        field = np.exp(log_density - log_density.max())
        cells.append(writers.panel(field=field, edge=edge))
        columns.append("density")
        arrays.update(log_density=log_density, axis=axis)
    return Table(np.stack(cells)[None], [""], columns, arrays)


HALVES = {  # (height, width) -> bool [H, W], True where a pixel is kept.
    "top": lambda h, w: np.broadcast_to((np.arange(h) < h // 2)[:, None], (h, w)),
    "bottom": lambda h, w: np.broadcast_to((np.arange(h) >= h // 2)[:, None], (h, w)),
    "left": lambda h, w: np.broadcast_to(np.arange(w) < w // 2, (h, w)),
    "right": lambda h, w: np.broadcast_to(np.arange(w) >= w // 2, (h, w)),
}
