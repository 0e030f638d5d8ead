"""A page that asks people which of two images is real.

Generated images are shown for a limited time, as in the studies of LAPGAN (Denton et
al., arXiv:1506.05751, Sec. 4.3: 50 to 2000 ms) and HYPE (Zhou et al.,
arXiv:1904.01121), but here beside a real one, so that 50 % right is chance; the
interval is Wilson's (Probable Inference, JASA 22, 1927).
"""

import base64
import hashlib
import importlib.resources
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from genjax import images


def study_page(
    real: np.ndarray,
    fake: np.ndarray,
    *,
    seconds: float,
    seed: int,
    title: str,
    protocol: Mapping[str, Any],
) -> str:
    """One HTML file that shows pairs, asks, scores and saves the answers.

    It needs nothing but a browser and sends nothing. The seed decides which images
    make a pair, the order of the pairs, and the sides; each side is the real one
    equally often, but for one pair if their number is odd.

    Args:
        real: uint8 [N, H, W, C], C = 1 or 3.
        fake: Generated images of the same shape; each image is used once.
        seconds: How long a pair is shown.
        seed: Of the draw.
        title: Above the page.
        protocol: What is written below the score, and saved with the answers: values
            that JSON has; others are written as text.

    Raises:
        ValueError: If the images or the time are not as described, or the protocol
            holds a number that is not finite.
    """
    _check(real, fake, seconds)
    rng, num = np.random.default_rng(seed), len(real)
    lefts = rng.permutation((np.arange(num) + rng.integers(2)) % 2 == 0)
    pairs, key = [], []
    for i, j, left in zip(
        rng.permutation(num), rng.permutation(num), lefts, strict=True
    ):
        pngs = images.to_png(real[i]), images.to_png(fake[j])
        pair = [f"data:image/png;base64,{_base64(png)}" for png in pngs]
        pairs.append(pair if left else pair[::-1])
        side = "left" if left else "right"
        key.append({"real": side, "real_index": int(i), "fake_index": int(j)})
    content = {
        "title": title,
        "protocol": dict(protocol),
        "seconds": float(seconds),
        "size": real.shape[1:3],
        "key": _base64(json.dumps(key).encode()),
        "pairs": pairs,
    }
    template = importlib.resources.files(__package__) / "study_page.html"
    text = template.read_text(encoding="utf-8")
    digest = hashlib.sha256((text + _json(content)).encode()).hexdigest()
    content["id"] = f"genjax-study-{digest[:16]}"
    return text.replace("{{data}}", _json(content), 1)


def _check(real: np.ndarray, fake: np.ndarray, seconds: float) -> None:
    shape = real.shape
    if (
        real.dtype != np.uint8
        or fake.dtype != np.uint8
        or fake.shape != shape
        or len(shape) != 4
        or shape[-1] not in (1, 3)
        or not real.size
    ):
        raise ValueError(
            "expected real and fake images, both uint8 [N, H, W, C] of one shape with "
            f"N > 0 and C = 1 or 3, found {real.dtype} {list(shape)} and "
            f"{fake.dtype} {list(fake.shape)}"
        )
    if not 0 < seconds < math.inf:
        raise ValueError(f"expected a time above 0 s, found seconds={seconds}")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _json(content: dict[str, Any]) -> str:
    """ASCII without `<`, which could end the script element that holds it."""
    text = json.dumps(content, default=str, allow_nan=False)
    return text.replace("<", "\\u003c")
