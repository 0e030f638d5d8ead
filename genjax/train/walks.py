"""Walks in the latent of a trained method, each a table of images with captions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax import data, latents
from genjax.config import ConfigError, call, choose
from genjax.train.questions import complete, denoise, density
from genjax.train.sampling import make_cond
from genjax.train.tables import (
    Model,
    Table,
    at_least,
    find_examples,
    look_up,
    of_classes,
)


@dataclass(frozen=True)
class Start:
    """Latents to set out from.

    Attributes:
        latents: float [N, ...].
        cond: What `decode` needs beside them, {name: [N, ...]}.
        real: The images they encode, uint8 [N, H, W, C]; None for draws of the prior.
        arrays: Where they come from.
    """

    latents: np.ndarray
    cond: Mapping[str, np.ndarray]
    real: np.ndarray | None
    arrays: Mapping[str, np.ndarray]

    def name(self, *rows: int) -> str:
        """A caption such as "class 7", "class 3 to 8", "test 4 to 5" or "draw 4"."""
        kind = "label" if "label" in self.arrays else "index"
        words = {"label": "class", "index": str(self.arrays.get("split", "draw"))}
        values = dict.fromkeys(int(self.arrays[kind][row]) for row in rows)
        return f"{words[kind]} {' to '.join(map(str, values))}"


def interpolate(
    model: Model,
    *,
    num: int = 8,
    points: int = 9,
    path: str | None = None,
    between: str | None = None,
    label: str = "all",
) -> Table:
    """Ways between two latents, one a row.

    Args:
        model: With an `encode` or a `prior`.
        num: Ways.
        points: Images on each, both ends included.
        path: "slerp" or "lerp"; None is "slerp" where the latents have a prior.
        between: "images", real ones, which are shown beside the ends, or "prior", its
            draws. None is images where the method encodes them.
        label: Classes of the ends, as in `make_cond`. Where the method is given the
            class, both ends of a way share it.
    """
    at_least(points, 2, "--points")
    between = pick_source(model, between)
    path = path or ("lerp" if model.method.prior is None else "slerp")
    path_fn = choose({"lerp": latents.lerp, "slerp": latents.slerp}, path, "--path")
    same = 2 if "label" in model.method.cond else 1
    if between == "images":
        start = from_images(model, find_examples(model, 2 * num, label, same))
    else:
        cond = make_cond(model.method, model.config, num, label)
        cond = {name: value.repeat(2, 0) for name, value in cond.items()}
        start = from_prior(model, np.arange(2 * num), cond)
    a, b = start.latents[::2], start.latents[1::2]
    t = np.linspace(0, 1, points, dtype=np.float32)
    z = np.asarray(jax.vmap(path_fn, (0, 0, None))(a, b, t))
    cond = {name: value[::2].repeat(points, 0) for name, value in start.cond.items()}
    drawn = decode_table(model, z, cond)
    cells, columns = drawn, [f"t = {x:.3g}" for x in t]
    if start.real is not None:
        real = start.real[:, None]
        cells = np.concatenate([real[::2], drawn, real[1::2]], axis=1)
        columns = ["real", *columns, "real"]
    rows = [start.name(2 * i, 2 * i + 1) for i in range(num)]
    arrays = {"images": drawn, "latents": z, "t": t, "path": path, **start.arrays}
    return Table(cells, rows, columns, arrays)


def manifold(model: Model, *, points: int = 20, label: str = "all") -> Table:
    """The plane of a latent of two numbers, at quantiles of a standard normal prior.

    Args:
        model: Whose latent has two numbers.
        points: Images along each side.
        label: The class, for a method that is given one; "all" is the first.
    """
    at_least(points, 1, "--points")
    z = np.asarray(latents.gaussian_grid(points)).reshape(points, points, 2)
    cond = make_cond(model.method, model.config, 1, label)
    repeated = {name: value.repeat(points**2, 0) for name, value in cond.items()}
    drawn = decode_table(
        model, z.reshape(points, points, *model.latent.shape), repeated
    )
    rows = [f"z1 = {value:.2f}" for value in z[:, 0, 1]]
    columns = [f"{value:.2f}" for value in z[0, :, 0]]
    columns[0] = f"z0 = {columns[0]}"
    return Table(drawn, rows, columns, {"images": drawn, "latents": z, **cond})


def reconstruct(model: Model, *, num: int = 16, label: str = "all") -> Table:
    """Real images over what comes back of them.

    Args:
        model: With an `encode`.
        num: The first so many images of the test split.
        label: Or the first of these classes, in turn.
    """
    start = from_images(model, find_examples(model, num, label))
    drawn = model.decode(start.latents, start.cond)
    width = min(num, 16)
    height = -(-num // width)
    pairs = np.full((height * width, 2, *drawn.shape[1:]), 255, np.uint8)
    pairs[:num] = np.stack([start.real, drawn], axis=1)
    bands = pairs.reshape(height, width, *pairs.shape[1:]).swapaxes(1, 2)
    cells = bands.reshape(height * 2, width, *drawn.shape[1:])
    arrays = {"images": drawn, "latents": start.latents, **start.arrays}
    return Table(cells, ["real", "reconstruction"] * height, (), arrays)


def arithmetic(
    model: Model,
    *,
    classes: Sequence[int] | None = None,
    exemplars: Sequence[Sequence[int]] | None = None,
    label: str = "all",
) -> Table:
    """The mean latent of A, less that of B, plus that of C.

    A method that is given the class decodes each mean as its first exemplar's and the
    result as C's.

    Args:
        model: With an `encode` for `classes`, a `prior` for `exemplars`.
        classes: A, B and C, three real images each: the first of the test split.
        exemplars: Or those of A, B and C by hand, each a list of the prior's draws;
            draw i is that of sample i.
        label: Of the prior's draws, as in `make_cond`.
    """
    if classes is not None and (exemplars is not None or label != "all"):
        raise ConfigError("--classes says it all: leave --exemplars and --label out")
    if exemplars is not None:
        start = by_hand(model, exemplars, label)
    elif classes is not None:
        start = by_class(model, classes)
    else:
        raise ConfigError(
            "--what=arithmetic needs --classes=A,B,C, whose first test images are "
            "encoded, or --exemplars=1,5,7/2,3,9/4,6,8, draws of the prior"
        )
    groups = start.latents.reshape(3, -1, *start.latents.shape[1:])
    means, each = groups.mean(axis=1), groups.shape[1]
    result = np.asarray(latents.arithmetic(*map(jnp.asarray, groups)))
    z = np.concatenate([start.latents, means, result[None]])
    rows = [*range(3 * each), 0, each, 2 * each, 2 * each]
    drawn = model.decode(z, {name: value[rows] for name, value in start.cond.items()})
    parts = drawn[: 3 * each] if start.real is None else start.real
    cells = np.full((4, each + 1, *drawn.shape[1:]), 255, np.uint8)
    cells[:3, :each] = parts.reshape(3, each, *drawn.shape[1:])
    cells[:, each] = drawn[3 * each :]
    names = (
        [start.name(i * each) for i in range(3)] if "label" in start.arrays else "ABC"
    )
    signed = [
        f"{sign}{name}" for sign, name in zip(("", "- ", "+ "), names, strict=True)
    ]
    columns = [*(f"exemplar {i + 1}" for i in range(each)), "mean"]
    arrays = {"images": drawn[3 * each :], "latents": z[3 * each :]}
    arrays |= {"exemplars": parts, "exemplar_latents": start.latents, **start.arrays}
    return Table(cells, [*signed, "= result"], columns, arrays)


def traverse(
    model: Model,
    *,
    axes: Sequence[int] | None = None,
    points: int = 7,
    between: str | None = None,
    label: str = "all",
) -> Table:
    """One number of a latent at a time over its range, the others as they were.

    The range holds 99.7 % of the prior's draws, as -3 to 3 does of a standard normal's;
    where there is no prior, of the encodings.

    Args:
        model: With an `encode` or a `prior`.
        axes: Places in the flattened latent, one a row; None is the first ten.
        points: Values.
        between: "images" sets out from the first real one, shown beside the walk,
            "prior" from its first draw. None is images where the method encodes them.
        label: The class of it.
    """
    at_least(points, 2, "--points")
    size = int(np.prod(model.latent.shape))
    axes = list(range(min(size, 10))) if axes is None else list(axes)
    if pick_source(model, between) == "images":
        start = from_images(model, find_examples(model, 1, label))
    else:
        cond = make_cond(model.method, model.config, 1, label)
        start = from_prior(model, np.arange(1), cond)
    start_z = jnp.asarray(start.latents[0].ravel())
    try:
        latents.traverse(start_z, axes, np.zeros(1))
    except ValueError as error:
        raise ConfigError(f"--axes: {error}") from None
    values = np.linspace(*spread(model, label)[:, axes], points, axis=1)
    z = latents.traverse(start_z, axes, values)
    z = np.asarray(z).reshape(len(axes), points, *model.latent.shape)
    repeated = {k: v.repeat(len(axes) * points, 0) for k, v in start.cond.items()}
    drawn = decode_table(model, z, repeated)
    cells, columns = drawn, ["lowest", *[""] * (points - 2), "highest"]
    if start.real is not None:
        real = np.broadcast_to(start.real, (len(axes), *start.real.shape))
        cells, columns = np.concatenate([real, drawn], axis=1), ["real", *columns]
    arrays = {"images": drawn, "latents": z, "axes": axes, "values": values}
    rows = [
        f"z{i}: {own[0]:.2g} to {own[-1]:.2g}"
        for i, own in zip(axes, values, strict=True)
    ]
    return Table(cells, rows, columns, arrays | dict(start.arrays))


def spread(model: Model, label: str) -> np.ndarray:
    """Between which ends 99.7 % of each number of the latents lie, [2, D].

    To two digits, of 4096 draws of the prior, or of encodings; of fewer, if latents are
    large.
    """
    num = max(min(4096, 2**24 // int(np.prod(model.latent.shape))), 64)
    if model.method.prior is not None:
        cond = make_cond(model.method, model.config, num, label)
        z = model.prior(np.arange(num), cond)
    else:
        _, source = model.examples
        z = model.encode(data.gather(source, np.arange(min(num, len(source)))))
    shares = jax.scipy.stats.norm.cdf(jnp.array([-3.0, 3.0]))
    ends = np.quantile(z.reshape(len(z), -1), shares, axis=0)
    return np.vectorize(lambda value: float(f"{value:.2g}"))(ends)


WALKS = {
    "interpolate": interpolate,
    "manifold": manifold,
    "reconstruct": reconstruct,
    "arithmetic": arithmetic,
    "traverse": traverse,
    "complete": complete,
    "denoise": denoise,
    "density": density,
}


def make(what: str, model: Model, options: Mapping[str, Any]) -> Table:
    """Walks WALKS[what] with the options that a command was given.

    Raises:
        ConfigError: If the method cannot walk so, with what it has and what it can, or
            for an option that the walk does not have.
    """
    walk = choose(WALKS, what, "--what")
    if obstacle := obstacle_to(what, model):
        method, possible = model.method, [w for w in WALKS if not obstacle_to(w, model)]
        has = [
            name
            for name in ("sample", "encode", "decode", "prior", "complete", "denoise")
            if getattr(method, name) is not None
        ]
        possible = ["samples"] * ("sample" in has) + possible
        raise ConfigError(
            f"--what={what} {obstacle}. {model.config.method!r} has "
            f"{', '.join(has) or 'none of those'}; what works: "
            f"{', '.join(f'--what={w}' for w in possible) or 'nothing'}"
        )
    return call(walk, options, model, where=f"--what={what}")


def obstacle_to(what: str, model: Model) -> str:
    """Why a method cannot walk so, or nothing."""
    method, shape = model.method, tuple(model.config.data.shape)
    if what == "density":
        return "" if shape == (2,) else f"needs points in the plane, not {shape}"
    if len(shape) != 3:
        return f"shows images, but config.data has points of shape {shape}"
    if what in ("complete", "denoise"):
        return "" if getattr(method, what) else f"needs a method with {what}"
    if method.decode is None:
        return "needs a method with decode"
    if method.encode is None and (what == "reconstruct" or method.prior is None):
        return "needs a method with encode" + " or prior" * (what != "reconstruct")
    if what == "reconstruct":
        return ""
    spec = model.latent
    if not jnp.issubdtype(spec.dtype, jnp.floating):
        return f"needs a continuous latent, but this one is of {spec.dtype} codes"
    if what == "manifold" and np.prod(spec.shape) != 2:
        return (
            f"needs a latent of exactly 2 numbers, but this one's shape is {spec.shape}"
        )
    return ""


def pick_source(model: Model, between: str | None) -> str:
    """Where latents come from: as asked, or from images where there is an encoder."""
    method = model.method
    can = {"images": method.encode is not None, "prior": method.prior is not None}
    available = {name: None for name, able in can.items() if able}
    if between is None:
        return next(iter(available))
    choose(available, between, f"--between, for {model.config.method!r},")
    return between


def from_images(model: Model, index: np.ndarray) -> Start:
    """The latents of examples of the test split, and what says which they are."""
    batch, cond, arrays = look_up(model, index)
    return Start(model.encode(batch), cond, batch["image"], arrays)


def from_prior(
    model: Model, index: np.ndarray, cond: Mapping[str, np.ndarray]
) -> Start:
    """Draws of the prior, cond[name][n] beside the n-th."""
    arrays = {"index": index, "seed": np.asarray(model.seed), **cond}
    return Start(model.prior(index, cond), cond, None, arrays)


def by_class(model: Model, classes: Sequence[int]) -> Start:
    """Three real images of each of three classes."""
    if model.method.encode is None:
        raise ConfigError(
            f"--classes needs a method with encode, which {model.config.method!r} "
            "lacks: choose draws of its prior with --exemplars=1,5,7/2,3,9/4,6,8"
        )
    num_classes = model.config.data.num_classes or 0
    if len(classes) != 3 or not all(0 <= c < num_classes for c in classes):
        raise ConfigError(
            f"--classes must be three of the data's {num_classes} classes, such as "
            f"7,1,4, got {','.join(map(str, classes))}"
        )
    return from_images(model, of_classes(model.examples[1], np.repeat(classes, 3)))


def by_hand(model: Model, exemplars: Sequence[Sequence[int]], label: str) -> Start:
    """Draws of the prior, as many of each concept."""
    if model.method.prior is None:
        raise ConfigError(
            f"--exemplars needs a method with prior, which {model.config.method!r} "
            "lacks: choose real images with --classes=A,B,C"
        )
    sizes = {len(group) for group in exemplars}
    if len(exemplars) != 3 or len(sizes) != 1 or np.min(exemplars) < 0:
        raise ConfigError(
            "--exemplars must be three lists of the same length of draws from 0 on, "
            f"such as 1,5,7/2,3,9/4,6,8, got {exemplars}"
        )
    index = np.asarray(exemplars).ravel()
    cond = make_cond(model.method, model.config, int(index.max()) + 1, label)
    return from_prior(
        model, index, {name: value[index] for name, value in cond.items()}
    )


def decode_table(
    model: Model, z: np.ndarray, cond: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Images [R, K, H, W, C] of latents [R, K, ...], row by row."""
    drawn = model.decode(z.reshape(-1, *z.shape[2:]), cond)
    return drawn.reshape(*z.shape[:2], *drawn.shape[1:])
