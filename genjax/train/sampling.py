"""Drawing from a method: image i depends on the seed and on i alone."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from genjax import data, images
from genjax.config import ConfigError
from genjax.train.sharding import from_whole, replicated, split
from genjax.types import Method, ModelState, Params


def make_draw(
    method: Method,
    mesh: Mesh,
    batch_size: int,
    before: Callable[[], object] = lambda: None,
) -> Callable[..., np.ndarray]:
    """Compiles `method.sample` once, for batches spread over the mesh.

    Args:
        method: With a `sample`.
        mesh: Devices to use; the weights that `draw` gets lie on all of them.
        batch_size: Images at once, rounded up to a multiple of the devices.
        before: Called before each batch.

    Returns:
        draw(params, model_state, *, seed, num, cond) -> uint8 [num, H, W, C], or float
        points [num, D], where cond is {name: array [num, ...]} for the names in
        `method.cond`.

    Raises:
        ConfigError: If the method cannot sample.
    """
    sample = jit_sample(method, mesh)
    batch_size = -(-batch_size // mesh.size) * mesh.size

    def draw(
        params: Params,
        model_state: ModelState,
        *,
        seed: int,
        num: int,
        cond: Mapping[str, np.ndarray],
    ) -> np.ndarray:
        if missing := sorted(set(method.cond) - set(cond)):
            raise ConfigError(
                f"sampling needs cond {list(method.cond)}, lacks {missing}"
            )
        keys = image_keys(seed, -(-num // batch_size) * batch_size)
        done = []
        for start in range(0, num, batch_size):
            before()
            rows = np.arange(start, start + batch_size)
            # The last batch is filled up, so that one compilation serves all.
            batch = {k: cond[k][np.minimum(rows, num - 1)] for k in method.cond}
            batch = from_whole(batch, split(mesh, 0))
            done.append(np.asarray(sample(params, model_state, keys[rows], batch)))
        return np.concatenate(done)[:num]

    return draw


def jit_sample(
    method: Method, mesh: Mesh
) -> Callable[[Params, ModelState, Array, Mapping[str, Array]], Array]:
    """The jitted `method.sample`, images as uint8, for keys spread over the mesh.

    Raises:
        ConfigError: If the method cannot sample.
    """
    if method.sample is None:
        raise ConfigError("this method does not sample: it has no images to draw")

    def finish(drawn: Array) -> Array:
        return images.to_uint8(drawn) if drawn.ndim == 4 else drawn

    return jax.jit(
        lambda *args: finish(method.sample(*args)),
        # Weights as they come: whole on every device, or split under fsdp.
        in_shardings=(None, None, split(mesh, 0), split(mesh, 0)),
        out_shardings=replicated(mesh),
    )


def image_keys(seed: int, num: int) -> Array:
    """One key per image; the i-th is the same for any `num`."""
    key = jax.random.key(seed)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num))


def make_cond(
    method: Method, config: ConfigDict, num: int, label: str = "all"
) -> dict[str, np.ndarray]:
    """What `method.sample` needs beside noise: {name: array [num, ...]}.

    Args:
        method: Its `cond` names the batch entries.
        config: Resolved, for the classes and the data.
        num: Images.
        label: A class, a comma list of classes that is cycled, or "all".

    Returns:
        Labels as asked; any other entry from the first examples of the test split.

    Raises:
        ConfigError: If there is no such class, or the method takes none.
    """
    if label != "all" and "label" not in method.cond:
        raise ConfigError(f"--label={label}: this model was trained without labels")
    cond: dict[str, np.ndarray] = {}
    for name in method.cond:
        if name == "label":
            classes = parse_classes(label, config.data.num_classes)
            cond[name] = np.resize(np.asarray(classes, np.int32), num)
        else:
            dataset = data.load(config.data)
            source = dataset.test or dataset.train
            cond[name] = np.stack([source[i % len(source)][name] for i in range(num)])
    return cond


def parse_classes(label: str, num_classes: int) -> list[int]:
    """The classes that "7", "1,2,3" or "all" asks for."""
    if label == "all":
        return list(range(num_classes))
    try:
        classes = [int(word) for word in label.split(",")]
    except ValueError:
        classes = []
    if not classes or not all(0 <= c < num_classes for c in classes):
        raise ConfigError(
            f"--label must be a class in 0..{num_classes - 1}, a comma list of classes "
            f"or 'all', got {label!r}"
        )
    return classes
