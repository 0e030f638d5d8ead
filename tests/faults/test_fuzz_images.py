"""Damaged image files of every format that is read: an image, or a clear refusal."""

import io
import time
from pathlib import Path

import memory
import numpy as np
import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from genjax.config import ConfigError
from genjax.data import folder, load, sources

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow says what it finds.

SECONDS = 10  # For a file of a few hundred bytes.
MEGABYTES = 256
MAX_PIXELS = 10**6  # Pillow refuses twice as many.


def _file(image: Image.Image, kind: str, frames: int = 1, **options) -> bytes:
    file = io.BytesIO()
    if frames > 1:
        more = [image.rotate(90 * k) for k in range(1, frames)]
        options.update(save_all=True, append_images=more)
    image.copy().save(file, kind, **options)  # An earlier save would leave traces.
    return file.getvalue()


def _seeds() -> dict[str, list[bytes]]:
    """Small whole files: {suffix: contents}."""
    noise = np.random.RandomState(0).randint(256, size=(9, 11, 4), dtype=np.uint8)
    rgba, rgb = Image.fromarray(noise), Image.fromarray(noise[..., :3])
    grey, deep = rgb.convert("L"), Image.fromarray(noise.view(np.uint16)[..., 0])
    bits = grey.convert("1")
    text, exif = PngImagePlugin.PngInfo(), Image.Exif()
    text.add_text("Comment", "a " * 200, zip=True)
    exif[0x0112] = 6
    return {
        ".png": [
            _file(rgb, "PNG", pnginfo=text, icc_profile=b"profile" * 30, exif=exif),
            _file(rgba, "PNG"),
            _file(grey, "PNG", transparency=7),
            _file(rgb.quantize(7), "PNG", transparency=1),
            _file(deep, "PNG"),
            _file(rgb, "PNG", frames=3),
        ],
        ".jpg": [
            _file(rgb, "JPEG", exif=exif, icc_profile=b"profile" * 30),
            _file(rgb, "JPEG", progressive=True, comment=b"a comment"),
            _file(rgba.convert("CMYK"), "JPEG"),
            _file(grey, "JPEG", quality=5),
            _file(rgb, "MPO", frames=3),
        ],
        ".gif": [_file(rgb, "GIF", frames=3), _file(grey, "GIF", interlace=0)],
        ".tif": [
            _file(rgb, "TIFF", exif=exif),
            _file(rgba, "TIFF", compression="tiff_lzw"),
            _file(rgb, "TIFF", compression="jpeg"),
            _file(deep, "TIFF", compression="tiff_adobe_deflate"),
            _file(bits, "TIFF", compression="group4"),
            _file(rgb, "TIFF", frames=3),
        ],
        ".bmp": [_file(rgb, "BMP"), _file(grey, "BMP"), _file(rgb.quantize(7), "BMP")],
        ".webp": [
            _file(rgb, "WEBP", exif=exif),
            _file(rgba, "WEBP", lossless=True),
            _file(rgb, "WEBP", frames=3),
        ],
        ".ppm": [
            _file(rgb, "PPM"),
            _file(deep, "PPM"),
            _file(bits, "PPM"),
        ],
    }


SEEDS = [(suffix, content) for suffix, all_ in _seeds().items() for content in all_]
NUMBERS = [b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\0\0\0\0"]


@st.composite
def damaged(draw) -> bytes:
    """A seed with bytes changed, put in, taken out, cut off or of another file."""
    content = bytearray(draw(st.sampled_from(SEEDS))[1])
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 4]))):
        at = draw(st.integers(0, len(content)))
        kinds = ["bit", "bit", "number", "put", "take", "cut", "splice"]
        kind = draw(st.sampled_from(kinds))
        # Headers, where a byte decides more, as often as the rest.
        at = at % 64 if draw(st.booleans()) else at
        if kind == "bit" and at < len(content):
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "number":
            number = draw(st.sampled_from(NUMBERS) | st.binary(min_size=1, max_size=8))
            content[at : at + len(number)] = number
        elif kind == "put":
            content[at:at] = draw(st.binary(max_size=40))
        elif kind == "take":
            del content[at : at + draw(st.integers(1, 40))]
        elif kind == "cut":
            del content[at:]
        elif kind == "splice":
            other = draw(st.sampled_from(SEEDS))[1]
            content[at:] = other[draw(st.integers(0, len(other))) :]
    return bytes(content)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder; in the end no file has taken more memory than its pixels may."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", MAX_PIXELS)
        patch.setattr(sources, "PATIENCE", 0)
        with memory.grows_by_less_than(MEGABYTES):
            yield tmp_path_factory.mktemp("images")


def _whole_or_refused(path: Path, size: tuple[int, int] | None) -> bool:
    """Loads the folder of one file; whether it could be read."""
    start = time.monotonic()
    try:
        data = load(
            {"name": f"folder:{path.parent}", "image_size": size, "test_fraction": 0.0}
        )
    except ConfigError as error:
        assert "1 of 1 files cannot be read" in str(error)
        return False
    finally:
        assert time.monotonic() - start < SECONDS
    image = data.train[0]["image"]
    assert image.shape == data.shape and image.dtype == np.uint8
    assert image.shape[-1] in (1, 3) and min(image.shape) > 0
    assert size is None or image.shape[:2] == size
    return True


@pytest.mark.parametrize("limit", [0, sources.IN_MEMORY_BYTES])
@given(
    content=st.one_of(*[damaged()] * 7, st.binary(max_size=300)),
    suffix=st.sampled_from(folder.SUFFIXES),
    size=st.sampled_from([None, (5, 7), (64, 64)]),
)
@example(content=b"", suffix=".png", size=None)
def test_a_damaged_file_is_an_image_or_refused(place, limit, content, suffix, size):
    (path,) = list(place.iterdir()) or [place / "image.png"]
    path.unlink(missing_ok=True)
    path = path.with_suffix(suffix)
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "IN_MEMORY_BYTES", limit)
        event("read" if _whole_or_refused(path, size) else "refused")


def test_what_the_cases_start_from_can_be_read(place):
    """Else they would only find that everything is refused."""
    for old in place.iterdir():
        old.unlink()
    for suffix, content in SEEDS:
        path = place / f"image{suffix}"
        path.write_bytes(content)
        assert _whole_or_refused(path, None) and _whole_or_refused(path, (5, 7)), suffix
        path.unlink()
