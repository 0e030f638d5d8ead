"""Drawing value after value, each from a distribution that sees those before it.

Values lie on a grid of pixels, read row by row; a sequence is a grid of one row. A
pixel of C channels is drawn at once or in `parts` one after the other. One key per
image is folded with the place of the part, so that two samplers with the same
distributions draw the same image from the same key.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Position(NamedTuple):
    """Where the sampler is: traced indices, but `part` is a plain number."""

    row: Array
    column: Array
    part: int


class Steps(NamedTuple):
    """A model as the sampler sees it, which keeps what it has computed in a cache.

    Attributes:
        cache: What it starts from, any pytree.
        step_fn: (cache, position, last) -> (parameters [N, P] of what is drawn at the
            position, cache). `last` is the pixel drawn last, int [N, C]: the one on the
            left, or -1 in the first column; from part 1 on the present one, with -1
            where it has not been drawn.
        row_fn: (cache, row, above) -> cache, called before each row's first step with
            the row above, int [N, W, C], or -1 before the first row.
    """

    cache: Any
    step_fn: Callable[[Any, Position, Array], tuple[Array, Any]]
    row_fn: Callable[[Any, Array, Array], Any] = lambda cache, row, above: cache


def per_image(
    cache: Any,
    step_fn: Callable[[Any, Position, Array], tuple[Array, Any]],
    row_fn: Callable[[Any, Array, Array], Any] | None = None,
) -> Steps:
    """The steps of all images from those of one.

    Args:
        cache: What each image starts from, with a leading axis of N.
        step_fn: (own cache, position, last [C]) -> (parameters [P], own cache).
        row_fn: (own cache, row, above [W, C]) -> own cache.
    """

    def steps(cache: Any, position: Position, last: Array) -> tuple[Array, Any]:
        return jax.vmap(lambda own, pixel: step_fn(own, position, pixel))(cache, last)

    def rows(cache: Any, row: Array, above: Array) -> Any:
        return jax.vmap(lambda own, pixels: row_fn(own, row, pixels))(cache, above)

    return Steps(cache, steps) if row_fn is None else Steps(cache, steps, rows)


def copies(cache: Any, num: int) -> Any:
    """One image's cache for each of `num` images."""
    return jax.tree.map(lambda x: jnp.tile(x, (num, *[1] * x.ndim)), cache)


def sample(
    steps: Steps,
    draw_fn: Callable[[Array, Array], tuple[Array, Array]],
    keys: Array,
    shape: tuple[int, int, int],
    *,
    parts: int = 1,
    known: Array | None = None,
    given: Array | None = None,
) -> tuple[Array, Array]:
    """Draws images pixel by pixel, in one scan over rows of a scan over columns.

    Args:
        steps: The model and the cache it starts from.
        draw_fn: (key, parameters [P]) -> (levels int [C / parts], their log-probability
            []), for one image.
        keys: Typed PRNG keys, [N]. Part p of pixel i in reading order is drawn with
            fold_in(key, i * parts + p).
        shape: (H, W, C); (1, L, C) for a sequence.
        parts: How many draws make a pixel; divides C.
        known: Pixels that are not drawn but taken from `given`, bool [N, H, W].
        given: Levels, int [N, H, W, C]; needed with `known`.

    Returns:
        Levels, int32 [N, H, W, C], and the log-probability of those drawn, float [N],
        in nats, each given all pixels before it.

    Raises:
        ValueError: If `parts` does not divide C, or one of `known` and `given` is
            missing or has another shape.
    """
    num, (height, width, channels) = len(keys), shape
    if channels % parts:
        raise ValueError(f"parts={parts} must divide {channels} channels")
    if (known is None) != (given is None):
        raise ValueError("known and given go together: pass both or none")
    if known is None:
        known = jnp.zeros((num, height, width), bool)
        given = jnp.zeros((num, *shape), jnp.int32)
    elif known.shape != (num, height, width) or given.shape != (num, *shape):
        raise ValueError(
            f"known and given must be {(num, height, width)} and {(num, *shape)}, got "
            f"{known.shape} and {given.shape}"
        )
    size = channels // parts
    nothing = jnp.full((num, channels), -1, jnp.int32)

    def column_fn(carry, inputs):
        cache, last, row = carry
        column, known, given = inputs
        pixel, total = nothing, jnp.zeros(num)
        for part in range(parts):
            position = Position(row, column, part)
            params, cache = steps.step_fn(cache, position, pixel if part else last)
            place = (row * width + column) * parts + part
            part_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, place)
            drawn, log_prob = jax.vmap(draw_fn)(part_keys, params)
            here = slice(part * size, (part + 1) * size)
            drawn = jnp.where(known[:, None], given[:, here], drawn)
            pixel = pixel.at[:, here].set(drawn.astype(jnp.int32))
            total += jnp.where(known, 0.0, log_prob)
        return (cache, pixel, row), (pixel, total)

    def row_fn(carry, inputs):
        cache, above = carry
        row, known, given = inputs
        cache = steps.row_fn(cache, row, above)
        columns = jnp.arange(width), known.swapaxes(0, 1), given.swapaxes(0, 1)
        (cache, _, _), (pixels, totals) = jax.lax.scan(
            column_fn, (cache, nothing, row), columns
        )
        pixels = pixels.swapaxes(0, 1)
        return (cache, pixels), (pixels, totals.sum(0))

    above = jnp.full((num, width, channels), -1, jnp.int32)
    rows = jnp.arange(height), known.swapaxes(0, 1), given.swapaxes(0, 1)
    _, (pixels, totals) = jax.lax.scan(row_fn, (steps.cache, above), rows)
    return pixels.swapaxes(0, 1), totals.sum(0)


def whole(
    outputs_fn: Callable[[Array], Array],
    num: int,
    shape: tuple[int, int, int],
    parts: int = 1,
) -> Steps:
    """The slow way, which computes all images anew at each step; for any model.

    Args:
        outputs_fn: Levels int [N, H, W, C], -1 where nothing has been drawn, to
            parameters [N, H, W, parts * P], those of one part after the other.
        num: N.
        shape: (H, W, C).
        parts: As in `sample`.

    Returns:
        Steps whose cache is the image so far.
    """

    def step_fn(levels, position, last):
        row, column, part = position
        # In the first column -1 is written, to the last: nothing has been drawn there.
        place = (0, row, column - (part == 0), 0)
        levels = jax.lax.dynamic_update_slice(levels, last[:, None, None], place)
        outputs = outputs_fn(levels)[:, row, column]
        return outputs.reshape(num, parts, -1)[:, part], levels

    def row_fn(levels, row, above):
        place = (0, row - 1, 0, 0)
        return jax.lax.dynamic_update_slice(levels, above[:, None], place)

    return Steps(jnp.full((num, *shape), -1, jnp.int32), step_fn, row_fn)
