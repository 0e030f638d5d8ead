"""Images between uint8 files and the float arrays that networks see."""

import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from genjax.files import replacing


def to_float(image: Array) -> Array:
    """Maps uint8 [..., H, W, C] in [0, 255] to float32 in [-1, 1].

    Raises:
        ValueError: If `image` is not uint8: scaling it twice would go unnoticed.
    """
    _check_uint8(image)
    return image.astype(jnp.float32) / 127.5 - 1


def to_uint8(image: Array) -> Array:
    """Rounds float [..., H, W, C] to uint8 in [0, 255]; [-1, 1] is clipped to."""
    return jnp.round(jnp.clip((image + 1) * 127.5, 0, 255)).astype(jnp.uint8)


def dequantize(image: Array, key: Array) -> Array:
    """Spreads each uint8 level evenly over its bin: float32 [..., H, W, C] in [-1, 1].

    A density p of the result bounds the probability of the pixels from below,
    E[log p(x + u)] <= log P(x) (Theis et al., arXiv:1511.01844, Sec. 3.1); each of the
    256 bins is 2/256 wide, which costs log(128) nats per dimension.

    Raises:
        ValueError: If `image` is not uint8.
    """
    _check_uint8(image)
    # Up to the last float32 below 256: 255 + 0.99999 would round into the next bin.
    noise = jax.random.uniform(key, image.shape, maxval=1 - 2.0**-16)
    return (image.astype(jnp.float32) + noise) / 128 - 1


def _check_uint8(image: Array) -> None:
    if image.dtype != jnp.uint8:
        raise ValueError(f"expected uint8 images in [0, 255], got dtype {image.dtype}")


def grid(
    images: np.ndarray, num_columns: int | None = None, pad: int = 1
) -> np.ndarray:
    """Lays uint8 [N, H, W, C] out in rows, [rows, columns] near a square.

    Returns:
        One uint8 picture [rows * (H + pad) + pad, columns * (W + pad) + pad, C] with
        `pad` white pixels around each image.
    """
    n, h, w, c = images.shape
    columns = num_columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    cells = np.full((rows * columns, h + pad, w + pad, c), 255, np.uint8)
    cells[:n, pad:, pad:] = images
    cells = cells.reshape(rows, columns, h + pad, w + pad, c)
    picture = cells.swapaxes(1, 2).reshape(rows * (h + pad), columns * (w + pad), c)
    return np.pad(picture, ((0, pad), (0, pad), (0, 0)), constant_values=255)


def captioned(
    cells: np.ndarray, rows: Sequence[str], columns: Sequence[str] = ()
) -> np.ndarray:
    """A table of images with a caption left of each row and above each column.

    Args:
        cells: uint8 [R, K, H, W, C], C = 1, 3 or 4; an empty cell is white.
        rows: R captions.
        columns: K captions, or none.

    Returns:
        One uint8 picture [height, width, 3]. Images grow by a whole factor, to 48
        pixels a side at least and until each caption fits above its column.

    Raises:
        ValueError: If there are not as many captions as rows or columns.
    """
    from PIL import Image, ImageDraw, ImageFont

    num_rows, num_columns, h, w, c = cells.shape
    if len(rows) != num_rows or len(columns) not in (0, num_columns):
        raise ValueError(
            f"{num_rows} rows and {num_columns} columns of images do not fit "
            f"{len(rows)} and {len(columns)} captions"
        )
    font, gap = ImageFont.load_default(14), 6
    widest = max([48 - gap, *map(font.getlength, columns)]) + gap
    factor = int(np.ceil(max(widest / w, 48 / h)))
    flat = cells.reshape(-1, h, w, c).repeat(factor, 1).repeat(factor, 2)
    picture = grid(flat, num_columns, pad=2)
    table = Image.fromarray(picture[..., 0] if c == 1 else picture)
    left = int(np.ceil(max(map(font.getlength, rows)))) + 2 * gap
    top = 14 + 2 * gap if columns else 0
    canvas = Image.new("RGB", (left + table.width, top + table.height), "white")
    canvas.paste(table, (left, top))
    draw = ImageDraw.Draw(canvas)
    for i, text in enumerate(rows):
        y = top + 2 + i * (factor * h + 2) + factor * h // 2
        draw.text((left - gap, y), text, "black", font, anchor="rm")
    for k, text in enumerate(columns):
        x = left + 2 + k * (factor * w + 2) + factor * w // 2
        draw.text((x, top // 2), text, "black", font, anchor="mm")
    return np.asarray(canvas)


def save_png(path: str | os.PathLike, image: np.ndarray, *, min_side: int = 0) -> None:
    """Writes uint8 [H, W, C], C = 1, 3 or 4; small pictures grow by whole factors.

    The file is there whole or not at all.

    Args:
        path: Where to write, parents included.
        image: The picture.
        min_side: Pixels are repeated until the longer side is at least this long.
    """
    factor = -(-min_side // max(image.shape[:2])) if min_side else 1
    image = image.repeat(factor, 0).repeat(factor, 1)
    with replacing(path) as part:
        part.write_bytes(to_png(image))


def to_png(image: np.ndarray) -> bytes:
    """uint8 [H, W, C], C = 1, 3 or 4, as a file that holds pixels and nothing else."""
    import io

    from PIL import Image

    file = io.BytesIO()
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.save(file, "png")
    return file.getvalue()
