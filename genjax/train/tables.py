"""A trained method and its real images, and tables of what they show."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from genjax import data, images, methods
from genjax.config import ConfigError
from genjax.train.checkpoints import load_weights
from genjax.train.restore import check_weights
from genjax.train.sampling import image_keys, make_cond, make_draw, parse_classes
from genjax.train.sharding import all_devices, from_whole, replicated, split
from genjax.types import Batch, Method, ModelState, Params


@dataclass(frozen=True)
class Table:
    """What a walk or a question shows and keeps.

    Attributes:
        cells: The picture's images, uint8 [R, K, H, W, C]; white where there is none.
        rows: Their captions, R of them.
        columns: The same, K or none.
        arrays: What is shown, `images` uint8 or `points`; for images of latents the
            `latents` too, alike in their leading axes; and all that is needed to make
            them again.
    """

    cells: np.ndarray
    rows: Sequence[str]
    columns: Sequence[str]
    arrays: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Model:
    """A trained method, with what it takes to run it.

    Attributes:
        method: Any.
        config: Resolved.
        params: Of the method, on all devices of the mesh.
        model_state: The same.
        mesh: Devices to use.
        batch_size: Images at once, rounded up to a multiple of the devices.
        seed: Of draws from the prior: draw i is that of sample i.
        step: Train steps taken.
        averaged: The networks whose weights are averages.
    """

    method: Method
    config: ConfigDict
    params: Params
    model_state: ModelState
    mesh: Mesh
    batch_size: int = 64
    seed: int = 0
    step: int = 0
    averaged: Sequence[str] = ()

    @classmethod
    def load(
        cls,
        workdir: str | Path,
        step: str = "latest",
        *,
        raw: bool = False,
        sections: Mapping[str, Mapping[str, Any]] | None = None,
        **fields: Any,
    ) -> "Model":
        """A trained run, on all devices.

        Args:
            workdir: Of the run.
            step: Of the checkpoint: a number, "latest" or "best".
            raw: Whether to take the weights rather than their averages.
            sections: What to change in the config: {"sampler": {"num_steps": 50}}.
            **fields: Attributes: batch_size and seed.

        Raises:
            ConfigError: If there is no such checkpoint, if its weights are not what its
                config makes, or a change cannot work.
        """
        mesh = all_devices()
        weights = load_weights(workdir, step, mesh, check_weights)
        config = weights.config.unlock()
        for name, changes in (sections or {}).items():
            config[name] = {**config[name].to_dict(), **changes}
        return cls(
            methods.load(config),
            config,
            weights.params if raw else weights.averaged(),
            weights.model_state,
            mesh,
            step=weights.step,
            averaged=() if raw else sorted(weights.ema_params),
            **fields,
        )

    @functools.cached_property
    def dataset(self) -> data.Dataset:
        """What it was trained on."""
        return data.load(self.config.data)

    @functools.cached_property
    def draw(self) -> Callable[..., np.ndarray]:
        """See `sampling.make_draw`.

        Raises:
            ConfigError: If the method cannot sample.
        """
        return make_draw(self.method, self.mesh, self.batch_size)

    def samples(self, num: int, label: str = "all") -> tuple[np.ndarray, dict]:
        """Images uint8 [N, H, W, C] or points, and what was given: {name: [N, ...]}.

        Args:
            num: Sample i is the same for any.
            label: A class, a comma list of classes that is cycled, or "all".
        """
        cond = make_cond(self.method, self.config, num, label)
        weights = (self.params, self.model_state)
        return self.draw(*weights, seed=self.seed, num=num, cond=cond), cond

    def decode(self, z: np.ndarray, cond: Mapping[str, np.ndarray]) -> np.ndarray:
        """Images uint8 [..., H, W, C] of latents [N, ...]."""
        method = self.method

        def fn(params, model_state, inputs):
            return images.to_uint8(method.decode(params, model_state, *inputs))

        return self.in_batches(fn, (z, dict(cond)))

    def encode(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Latents [N, ...] of examples."""
        method, key = self.method, jax.random.key(self.seed)

        def fn(params, model_state, batch):
            return method.encode(params, model_state, key, batch)

        return self.in_batches(fn, dict(batch))

    def log_density(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Nats [N] of examples, or minus their energies: those up to a constant."""
        method, key = self.method, jax.random.key(self.seed)

        def fn(params, model_state, batch):
            if method.log_likelihood is None:
                return -method.energy(params, model_state, batch)
            options = self.config.likelihood
            return method.log_likelihood(params, model_state, key, batch, **options)[0]

        return self.in_batches(fn, dict(batch))

    def prior(self, index: np.ndarray, cond: Mapping[str, np.ndarray]) -> np.ndarray:
        """The index[n]-th draws of the prior with this seed, [N, ...]."""
        method = self.method
        keys = jax.random.key_data(image_keys(self.seed, int(max(index)) + 1))

        def fn(params, model_state, inputs):
            keys, cond = inputs
            keys = jax.random.wrap_key_data(keys)
            return method.prior(params, model_state, keys, cond)

        return self.in_batches(fn, (np.asarray(keys)[index], dict(cond)))

    def in_batches(self, fn: Callable, inputs: Any) -> np.ndarray:
        """fn(params, model_state, inputs) over the rows of a tree, compiled once."""
        num = len(jax.tree.leaves(inputs)[0])
        size = -(-min(self.batch_size, num) // self.mesh.size) * self.mesh.size
        place, done = split(self.mesh, 0), []
        compiled = jax.jit(
            fn,
            in_shardings=(None, None, place),
            out_shardings=replicated(self.mesh),
        )
        for start in range(0, num, size):
            rows = np.minimum(np.arange(start, start + size), num - 1)
            batch = from_whole(jax.tree.map(lambda x: x[rows], inputs), place)
            done.append(np.asarray(compiled(self.params, self.model_state, batch)))
        return np.concatenate(done)[:num]

    @functools.cached_property
    def examples(self) -> tuple[str, Any]:
        """The name of the split that real images come from, and the split."""
        dataset = self.dataset
        return ("test", dataset.test) if dataset.test else ("train", dataset.train)

    @functools.cached_property
    def latent(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of one latent; nothing is computed."""
        method, weights = self.method, (self.params, self.model_state)
        if method.prior is not None:
            cond, keys = make_cond(method, self.config, 1), image_keys(0, 1)
            spec = jax.eval_shape(method.prior, *weights, keys, cond)
        else:
            batch = data.gather(self.examples[1], np.array([0]))
            spec = jax.eval_shape(method.encode, *weights, jax.random.key(0), batch)
        return jax.ShapeDtypeStruct(spec.shape[1:], spec.dtype)


def find_examples(model: Model, num: int, label: str, same: int = 1) -> np.ndarray:
    """Places in the split, int [num]: the first, or those of classes in turn.

    Args:
        model: Names the data.
        num: Examples, a multiple of `same`.
        label: A class, a comma list that is cycled, or "all".
        same: So many in a row share their class; 1 with "all" takes any.
    """
    at_least(num, 1, "--num")
    _, source = model.examples
    if label == "all" and same == 1:
        if num > len(source):
            raise ConfigError(f"--num: {num} images are needed, of {len(source)}")
        return np.arange(num)
    num_classes = model.config.data.num_classes
    if num_classes is None:
        raise ConfigError(f"--label={label}: the data have no labels")
    classes = np.resize(parse_classes(label, num_classes), num // same)
    return of_classes(source, classes.repeat(same))


def of_classes(source: Any, wanted: np.ndarray) -> np.ndarray:
    """Places in a split of the wanted classes, int [N], in the split's order."""
    free = {c: list(np.flatnonzero(wanted == c)) for c in set(wanted.tolist())}
    found = np.zeros(len(wanted), int)
    for i in range(len(source)):
        c = int(source[i]["label"])
        if free.get(c):
            found[free[c].pop(0)] = i
        if not any(free.values()):
            return found
    lacking = sorted(c for c, places in free.items() if places)
    raise ConfigError(f"the {len(source)} images are too few of classes {lacking}")


def at_least(value: int, minimum: int, flag: str) -> None:
    """Raises ConfigError unless it is."""
    if value < minimum:
        raise ConfigError(f"{flag} must be at least {minimum}, got {value}")


def look_up(
    model: Model, index: np.ndarray
) -> tuple[Batch, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Real images, what the method needs beside them, and what says which they are."""
    name, source = model.examples
    batch = data.gather(source, np.asarray(index))
    cond = {entry: batch[entry] for entry in model.method.cond}
    arrays = {"real": batch["image"], "index": index, "split": np.asarray(name), **cond}
    if "label" in batch:
        arrays["label"] = batch["label"]
    return batch, cond, arrays
