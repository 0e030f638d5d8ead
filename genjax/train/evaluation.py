"""What a method can say of a split, and what can be said of its samples."""

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from genjax import data
from genjax.config import ConfigError, check_arguments
from genjax.metrics.frechet import distance_of_samples, pixel_distance
from genjax.metrics.modes import mode_coverage
from genjax.metrics.representation import active_units, linear_probe, outlier_auroc
from genjax.train.quality import Quality
from genjax.train.sharding import replicated, split, to_global
from genjax.types import Method, ModelState, Params

Results = dict[str, dict[str, float]]  # {name: {"value": ..., "examples": count, ...}}


def make_losses(method: Method, mesh: Mesh) -> Callable[..., dict[str, Array]]:
    """Compiles every player's loss and metrics, without training.

    Returns:
        losses(params, model_state, batch, key) -> {"player/metric": mean over batch}.
    """

    def losses(params, model_state, batch, key):
        metrics = {}
        for i, player in enumerate(method.players):
            loss, (_, own) = player.loss(
                params,
                model_state,
                batch,
                jax.random.fold_in(key, i),
                step=0,
                train=False,
            )
            own = {"loss": loss, **own}
            metrics.update(
                {f"{player.name}/{name}": value for name, value in own.items()}
            )
        return metrics

    return jax.jit(losses, out_shardings=replicated(mesh))


def make_likelihood(
    method: Method, mesh: Mesh, options: Mapping[str, Any]
) -> Callable[..., dict[str, Array]]:
    """Compiles the likelihood and its parts.

    Args:
        method: With a `log_likelihood`.
        mesh: Devices to use.
        options: config.likelihood, how it is estimated.

    Returns:
        likelihood(params, model_state, batch, key) -> {"nats/nll", "nats/<part>": [B]}.
    """

    def likelihood(params, model_state, batch, key):
        nats, parts = method.log_likelihood(params, model_state, key, batch, **options)
        return {"nats/nll": -nats, **{f"nats/{k}": v for k, v in parts.items()}}

    return jax.jit(likelihood, out_shardings=replicated(mesh))


def make_energy(method: Method, mesh: Mesh) -> Callable[..., dict[str, Array]]:
    """Compiles the energy.

    Returns:
        energy(params, model_state, batch, key) -> {"energy": [B]}.
    """

    def energy(params, model_state, batch, key):
        return {"energy": method.energy(params, model_state, batch)}

    return jax.jit(energy, out_shardings=replicated(mesh))


def make_encode(method: Method, mesh: Mesh) -> Callable[..., dict[str, Array]]:
    """Compiles the encoder.

    Returns:
        encode(params, model_state, batch, key) -> {"latents": [B, ...]}.
    """

    def encode(params, model_state, batch, key):
        return {"latents": method.encode(params, model_state, key, batch)}

    return jax.jit(encode, out_shardings=replicated(mesh))


def check_likelihood(method: Method, options: Mapping[str, Any]) -> None:
    """Raises ConfigError if config.likelihood is not what the method's takes."""
    fn = method.log_likelihood or (lambda params, model_state, key, batch: None)
    check_arguments(fn, options, *[None] * 4, where="config.likelihood")


def sample_measures(
    dataset: data.Dataset, judge: Quality | None = None
) -> dict[str, Callable[..., float]]:
    """What can be measured of samples of such data: {name: samples -> number}.

    For a Gaussian mixture "modes" and "good_share"; for other points and for images
    "frechet", the distance in their coordinates or in pixels to the first 10,000 test
    examples, or training examples where none are held out (`metrics.frechet`). With a
    judge also its distance, such as "fid".

    Raises:
        ConfigError: If there is one real example, which has no covariance.
    """
    density = dataset.density
    if isinstance(density, data.synthetic.GaussianMixture):
        cover = functools.partial(
            mode_coverage, means=density.means, sigma=density.sigma
        )
        return {
            "modes": lambda samples: cover(samples).modes,
            "good_share": lambda samples: cover(samples).good_share,
        }
    source = dataset.test or dataset.train
    if len(source) < 2:
        raise ConfigError(
            "samples are compared with two real examples at least, and the data have "
            "one: give more, or set config.eval_samples=0"
        )

    def frechet(samples: np.ndarray) -> float:
        real = data.gather(source, np.arange(min(len(source), 10_000)))
        try:
            if "point" in real:
                return distance_of_samples(samples, real["point"])
            return pixel_distance(samples, real["image"])
        except ValueError as error:
            raise ConfigError(f"the samples cannot be measured: {error}") from None

    if judge is None:
        return {"frechet": frechet}
    return {"frechet": frechet, judge.network.distance: judge.distance}


def doubts(samples: np.ndarray, dataset: data.Dataset) -> list[str]:
    """Why what `of_samples` says of these is not to be trusted; [] if it is.

    Args:
        samples: uint8 [N, H, W, C] or points [N, D].
        dataset: What they are compared with.
    """
    found, source = [], dataset.test or dataset.train
    if samples.ndim == 4:  # The distance is one of block means.
        height, width, channels = samples.shape[1:]
        dims = math.prod(-(-n // -(-n // 16)) for n in (height, width)) * channels
    else:
        dims = samples.shape[-1]
    for num, what in ((len(samples), "samples"), (len(source), "real examples")):
        if num <= dims:
            found.append(
                f"the covariance of {num} {what} in {dims} dimensions is singular: "
                "frechet is too large"
            )
    if samples.ndim == 4 and (values := len(np.unique(samples))) <= 2:
        found.append(
            f"the samples have {values} of 256 levels: is their range [0, 255]?"
        )
    if len(samples) > 1 and (samples == samples[0]).all():
        found.append("the samples are all the same")
    return found


def of_samples(
    samples: np.ndarray, dataset: data.Dataset, judge: Quality | None = None
) -> Results:
    """What `sample_measures` gives, as results."""
    return {
        f"samples/{name}": {"value": float(fn(samples)), "examples": len(samples)}
        for name, fn in sample_measures(dataset, judge).items()
    }


def foreign(config: ConfigDict, name: str, split: str) -> data.Examples:
    """A split of another data set whose examples the run's model can take.

    Raises:
        ConfigError: If there is none, or its examples have another shape.
    """
    options = config.data.copy_and_resolve_references()
    options.name = name
    other = data.load(options)
    if tuple(other.shape) != tuple(config.data.shape):
        raise ConfigError(
            f"{name} has examples of shape {other.shape}, but those of "
            f"{config.data.name} are {config.data.shape}"
        )
    if getattr(other, split) is None:
        raise ConfigError(f"{name} has no {split} split; try --split")
    return getattr(other, split)


def values_over_split(
    fn: Callable[..., Mapping[str, Array]],
    params: Params,
    model_state: ModelState,
    source: Sequence[Mapping[str, Any]],
    *,
    mesh: Mesh,
    batch_size: int,
    num_examples: int,
    seed: int,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What fn gives for the first `num_examples` of a split, in its order.

    Every process reads the same batches and each device works on its share. Batch b
    uses the key fold_in(key(seed), b), so two calls with one seed see equal noise.

    Args:
        fn: (params, model_state, batch, key) -> {name: [B, ...], or a scalar}.
        params: Weights, on all devices of the mesh.
        model_state: Likewise.
        source: The split.
        mesh: Devices to use.
        batch_size: Examples at once, rounded up to a multiple of the devices.
        num_examples: Up to one less than there are devices is left out at the end.
        seed: Of the noise.

    Returns:
        {name: (values [N, ...], weights [N])}: a value an example, of weight 1, or a
        value a batch, of the weight of its examples.

    Raises:
        ConfigError: If there are fewer examples than devices.
    """
    num = min(num_examples, len(source))
    check_size(num, mesh)
    batch_size = -(-batch_size // mesh.size) * mesh.size
    key = jax.random.key(seed)
    values, weights = defaultdict(list), defaultdict(list)
    batches = data.batches(
        source, batch_size=batch_size, shuffle=False, repeat=False, num_threads=0
    )
    for b in range(-(-num // batch_size)):
        batch = next(batches)
        rows = min(len(batch.pop("index")), num - b * batch_size)
        rows = rows // mesh.size * mesh.size
        if not rows:
            break
        share = slice(
            rows * jax.process_index() // jax.process_count(),
            rows * (jax.process_index() + 1) // jax.process_count(),
        )
        batch = to_global({k: v[share] for k, v in batch.items()}, split(mesh, 0))
        result = fn(params, model_state, batch, jax.random.fold_in(key, b))
        for name, value in jax.device_get(result).items():
            values[name].append(np.atleast_1d(value))
            weights[name] += [1.0] * rows if np.ndim(value) else [float(rows)]
    return {
        name: (np.concatenate(values[name]), np.array(weights[name])) for name in values
    }


@dataclass(frozen=True)
class Evaluator:
    """Measures trained weights on splits of data.

    Attributes:
        method: With the config's likelihood options in `options`.
        options: config.likelihood.
        params: Weights, on all devices of the mesh.
        model_state: Likewise.
        mesh: Devices to use.
        batch_size: Examples at once.
        seed: Of the noise.
    """

    method: Method
    options: Mapping[str, Any]
    params: Params
    model_state: ModelState
    mesh: Mesh
    batch_size: int
    seed: int

    def values(
        self, fn: Callable[..., Mapping[str, Array]], source: data.Examples, num: int
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """`values_over_split` of the first `num` examples."""
        return values_over_split(
            fn,
            self.params,
            self.model_state,
            source,
            mesh=self.mesh,
            batch_size=self.batch_size,
            num_examples=num,
            seed=self.seed,
        )

    def split(self, source: data.Examples, num: int) -> Results:
        """The players' losses and the likelihood with its parts."""
        found = {}
        if self.method.players:
            found |= self.values(make_losses(self.method, self.mesh), source, num)
        if self.method.log_likelihood is not None:
            found |= self.values(self.likelihood, source, num)
        return {name: summary(*entry) for name, entry in found.items()}

    @functools.cached_property
    def likelihood(self) -> Callable[..., dict[str, Array]]:
        """The compiled likelihood."""
        return make_likelihood(self.method, self.mesh, self.options)

    def outliers(
        self,
        source: data.Examples,
        other: data.Examples,
        num: int,
        num_classes: int | None = None,
    ) -> Results:
        """AUROC between a split and foreign data, as a result.

        What tells them apart is the likelihood, or where there is none the energy. Of
        a method given labels it is that of all classes together, equally likely: what
        foreign labels mean the method cannot know.

        Args:
            source: Examples of the model's own kind.
            other: Examples of another.
            num: The first so many of both.
            num_classes: Of a method given labels.

        Raises:
            ConfigError: If the method has neither.
        """
        if self.method.log_likelihood is not None:
            fn, name = self.likelihood, "nats/nll"
        elif self.method.energy is not None:
            fn, name = make_energy(self.method, self.mesh), "energy"
        else:
            raise ConfigError(
                "--outliers: this method has no likelihood and no energy to tell by"
            )
        classes = [None] if "label" not in self.method.cond else range(num_classes)

        def score(examples: data.Examples) -> np.ndarray:
            found = [
                -self.values(labelled(fn, label), examples, num)[name][0]
                for label in classes
            ]
            scores = np.logaddexp.reduce(np.float64(found))
            if num_bad := int((~np.isfinite(scores)).sum()):
                raise ConfigError(
                    f"--outliers: {name} is not finite for {num_bad} of {len(scores)} "
                    "examples, so that they cannot be told apart by it"
                )
            return scores

        inside, outside = score(source), score(other)
        value = outlier_auroc(inside, outside)
        return {"outliers/auroc": {"value": value, "examples": len(inside)}}

    def latents(
        self, train: data.Examples, source: data.Examples, num_train: int, num: int
    ) -> Results:
        """Active units, and the accuracy of a linear probe where there are labels.

        Args:
            train: Examples to fit the probe to.
            source: Examples to measure on.
            num_train: The first so many of `train`.
            num: The first so many of `source`.

        Raises:
            ConfigError: If the method has no encoder, or encodes to codes.
        """
        if self.method.encode is None:
            raise ConfigError("--probe: this method has no encoder")
        encode = make_encode(self.method, self.mesh)
        one = data.gather(source, np.arange(1))
        key = jax.random.key(self.seed)
        made = jax.eval_shape(encode, self.params, self.model_state, one, key)
        if not jax.dtypes.issubdtype(made["latents"].dtype, np.floating):
            raise ConfigError("--probe: this method encodes to codes, not to numbers")
        here = self.values(encode, source, num)["latents"][0]
        count = {"examples": len(here)}
        results = {"latents/active_units": {"value": active_units(here), **count}}
        if "label" in source[0]:
            there = self.values(encode, train, num_train)["latents"][0]
            label, label_here = (
                data.gather(examples, np.arange(len(z)))["label"]
                for examples, z in ((train, there), (source, here))
            )
            if len(np.unique(label)) < 2:
                raise ConfigError(
                    f"--probe={num_train}: these examples are all of one class, and a "
                    "probe needs two at least; take more"
                )
            accuracy = linear_probe(there, label, here, label_here)
            results["latents/probe_accuracy"] = {"value": accuracy, **count}
        return results


def labelled(fn: Callable, label: int | None) -> Callable:
    """fn of batches in which all examples have that label; None leaves them."""
    if label is None:
        return fn

    def of_class(params, model_state, batch, key):
        rows = len(jax.tree.leaves(batch)[0])
        labels = np.full(rows, label, np.int32)
        return fn(params, model_state, {**batch, "label": labels}, key)

    return of_class


def check_size(num_examples: int, mesh: Mesh) -> None:
    """Raises ConfigError unless each device gets an example to measure on."""
    if num_examples < mesh.size:
        raise ConfigError(
            f"an evaluation needs an example for each of the {mesh.size} devices, got "
            f"{num_examples} (config.eval_examples, --num or the size of the split)"
        )


def summary(values: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """The weighted mean of what `values_over_split` gives for one name.

    Returns:
        {"value": mean, "standard_error": of that mean, "examples": count}. The standard
        error of values given per batch is that between batches; one value has none.
    """
    x, w, n = values.astype(np.float64), weights, len(values)
    share = w / w.sum()
    mean = share @ x
    entry = {"value": float(mean), "examples": int(w.sum())}
    if n > 1:
        variance = share @ np.square(x - mean) * n / (n - 1)
        entry["standard_error"] = float(np.sqrt(variance / n))
    return entry
