"""What evaluate.py answers: of a trained model's likelihood, latents and samples."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from genjax import data, images
from genjax.config import ConfigError
from genjax.files import replacing
from genjax.metrics.likelihood import in_bits_per_dim
from genjax.train import evaluation
from genjax.train.quality import Quality, make_lpips
from genjax.train.tables import Model


@dataclass(frozen=True)
class Report:
    """What is to be shown and written.

    Attributes:
        protocol: How the results were found.
        results: For a JSON.
        lines: For the screen.
        pictures: uint8 [H, W, 3] by name.
        pages: HTML by name.
    """

    protocol: Mapping[str, Any]
    results: Mapping[str, Any]
    lines: list[str]
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict)
    pages: Mapping[str, str] = field(default_factory=dict)

    def write(self, folder: Path, name: str) -> list[Path]:
        """<name>.json, a .png for each picture, a .html for each page."""
        paths = [folder / f"{name}.json"]
        report = {"protocol": self.protocol, "results": self.results}
        with replacing(paths[0]) as part:
            part.write_text(json.dumps(report, indent=1) + "\n")
        for key, picture in self.pictures.items():
            paths.append(folder / f"{key}.png")
            images.save_png(paths[-1], picture)
        for key, page in self.pages.items():
            paths.append(folder / f"{key}.html")
            with replacing(paths[-1]) as part:
                part.write_text(page, encoding="utf-8")
        return paths


def find_split(model: Model, name: str) -> data.Examples:
    """A split of the model's data.

    Raises:
        ConfigError: If there is none of that name.
    """
    source = getattr(model.dataset, name)
    if source is None:
        raise ConfigError(f"{model.config.data.name} has no {name} split; try --split")
    return source


def of_weights(model: Model) -> dict[str, Any]:
    """The protocol of all that is asked of a model."""
    return {
        "data": model.config.data.name,
        "seed": model.seed,
        "batch_size": model.batch_size,
        "step": model.step,
        "ema": list(model.averaged),
    }


def of_sampling(model: Model, num: int) -> dict[str, Any]:
    """The protocol of samples: guidance is the sampler's."""
    return {
        "num_samples": num,
        "sampler": model.config.sampler.to_dict(),
        "labels": "all, in turn" if "label" in model.method.cond else None,
    }


def whole(
    model: Model,
    judge: Quality | None,
    *,
    split: str = "test",
    num: int | None = None,
    num_samples: int = 0,
    probe: int = 0,
    reconstruct: int = 0,
    lpips: str = "",
    outliers: str = "",
) -> Report:
    """Losses and the likelihood, and what else is asked for.

    Args:
        model: Any.
        judge: Of samples and reconstructions.
        split: "test" or "train".
        num: The first so many examples of it; by default all.
        num_samples: Drawn and compared with the data.
        probe: Training examples whose latents a linear classifier is fitted to.
        reconstruct: The first so many examples are compared with what the model
            makes of their latents.
        lpips: Of these also LPIPS, by "alex" or "vgg".
        outliers: Name of other data to tell apart.
    """
    config, source = model.config, find_split(model, split)
    perceptual = make_lpips(lpips) if lpips else None
    num = num or len(source)
    evaluator = evaluation.Evaluator(
        model.method,
        config.likelihood,
        model.params,
        model.model_state,
        mesh=model.mesh,
        batch_size=model.batch_size,
        seed=model.seed,
    )
    measured: evaluation.Results = {}
    if outliers:
        other = evaluation.foreign(config, outliers, split)
        measured |= evaluator.outliers(source, other, num, config.data.num_classes)
    if probe:
        measured |= evaluator.latents(model.dataset.train, source, probe, num)
    if reconstruct:
        found = reconstructions(model, source, reconstruct, judge, perceptual)
        measured |= found
    warnings = judge.protocol(num_samples)["warnings"] if judge else []
    if num_samples:
        drawn, cond = model.samples(num_samples)
        warnings = [*warnings, *evaluation.doubts(drawn, model.dataset)]
        measured |= evaluation.of_samples(drawn, model.dataset)
        if judge:
            measured |= judge.measure(drawn, cond.get("label"))
    measured |= evaluator.split(source, num)
    results = in_bits_per_dim(measured, math.prod(config.data.shape))
    protocol = {
        **of_weights(model),
        "split": split,
        "bound": model.method.bound,
        "likelihood": config.likelihood.to_dict(),
        "probe_examples": probe,
        "outliers": outliers,
        "lpips": lpips,
        **(of_sampling(model, num_samples) if num_samples else {}),
        **(judge.protocol(num_samples) if judge else {}),
        "warnings": [*warnings, *not_finite(results)],
    }
    lines = [f"{name:32} {shown(entry)}" for name, entry in results.items()]
    return Report(protocol, results, lines)


def not_finite(results: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A warning for each result that is no number."""
    return [
        f"{name} is {entry['value']}: it says nothing"
        for name, entry in results.items()
        if not math.isfinite(entry["value"])
    ]


def shown(entry: Mapping[str, float]) -> str:
    """A result in words."""
    error = f" +- {entry['standard_error']:.5f}" if "standard_error" in entry else ""
    return f"{entry['value']:.5f}{error}  ({entry['examples']} examples)"


def reconstructions(
    model: Model,
    source: data.Examples,
    num: int,
    judge: Quality | None = None,
    perceptual: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> evaluation.Results:
    """How far images are from what the model makes of their latents.

    In pixels the root of the mean squared difference, where images lie in [-1, 1]; by
    the judge's network as `Quality.pairs` has it.

    Raises:
        ConfigError: If the method cannot, or the data are points.
    """
    method = model.method
    if (
        method.encode is None
        or method.decode is None
        or len(model.config.data.shape) < 3
    ):
        raise ConfigError(
            "--reconstruct: this method does not encode and decode images"
        )
    batch = data.gather(source, np.arange(min(num, len(source))))
    cond = {name: batch[name] for name in method.cond}
    made, real = model.decode(model.encode(batch), cond), batch["image"]
    squares = np.square(made / 127.5 - real / 127.5).mean(axis=(1, 2, 3))
    values = {"pixels_rms": np.sqrt(squares)}
    if judge:
        values |= judge.pairs(real, made)
    if perceptual:
        values["lpips"] = perceptual(real, made)
    return {
        f"reconstructions/{name}": evaluation.summary(value, np.ones(len(value)))
        for name, value in values.items()
    }
