"""Damage to images that a sound distance must see, and see more of the more there is.

Heusel et al., arXiv:1706.08500, App. A1 and Fig. 3, whose kinds these are.
"""

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

Distortion = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def noise(x: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Mixes Gaussian noise in, of grey levels N(127.5, 64^2).

    Args:
        x: Images, uint8 [N, H, W, C], as of all distortions.
        strength: Share of the noise, in [0, 1].
        random: Draws what is random.
    """
    eps = random.normal(127.5, 64, x.shape)
    return _to_uint8((1 - strength) * x + strength * eps)


def blur(x: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Gaussian blur; `strength` is the standard deviation over the shorter side."""
    sigma = strength * min(x.shape[1:3])
    return _to_uint8(gaussian_filter(x.astype(np.float64), (0, sigma, sigma, 0)))


def rectangles(
    x: np.ndarray, strength: float, random: np.random.Generator
) -> np.ndarray:
    """Five black rectangles at random places; `strength` is their side over that of x.

    They may reach over the border, but their centres lie within.
    """
    n, h, w, _ = x.shape
    x = x.copy()
    for _ in range(5):
        row, column = random.uniform(0, h, n), random.uniform(0, w, n)
        in_rows = np.abs(np.arange(h) + 0.5 - row[:, None]) <= strength * h / 2
        in_columns = np.abs(np.arange(w) + 0.5 - column[:, None]) <= strength * w / 2
        x[in_rows[:, :, None] & in_columns[:, None, :]] = 0
    return x


def swirl(x: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Turns each image around a random point, by `strength` radians at that point.

    The angle falls as exp(-5 r / side) with the distance r from it.
    """
    n, h, w, c = x.shape
    y = np.empty(x.shape)
    rows, columns = np.mgrid[:h, :w]
    for i in range(n):
        centre = random.uniform(0.25, 0.75, 2) * (h, w)
        dy, dx = rows - centre[0], columns - centre[1]
        angle = strength * np.exp(-5 * np.hypot(dy, dx) / min(h, w))
        sin, cos = np.sin(angle), np.cos(angle)
        places = centre[0] + cos * dy - sin * dx, centre[1] + sin * dy + cos * dx
        for k in range(c):
            y[i, ..., k] = map_coordinates(
                x[i, ..., k] * 1.0, places, order=1, mode="nearest"
            )
    return _to_uint8(y)


def salt_and_pepper(
    x: np.ndarray, strength: float, random: np.random.Generator
) -> np.ndarray:
    """A share of the pixels is black or white, with equal chances."""
    hit = random.random(x.shape[:3]) < strength
    value = 255 * random.integers(0, 2, x.shape[:3], dtype=np.uint8)
    return np.where(hit[..., None], value[..., None], x)


def contamination(
    x: np.ndarray, strength: float, random: np.random.Generator, foreign: np.ndarray
) -> np.ndarray:
    """A share of the images is replaced by random ones of another data set.

    Args:
        x: Images.
        strength: The share, in [0, 1].
        random: Draws them.
        foreign: Images of the same shape, [M, H, W, C].
    """
    hit = random.permutation(len(x)) < round(strength * len(x))
    other = foreign[random.integers(len(foreign), size=len(x))]
    return np.where(hit[:, None, None, None], other, x)


def _to_uint8(x: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


DISTORTIONS: dict[str, tuple[Distortion, tuple[float, ...]]] = {
    "gaussian noise": (noise, (0.1, 0.25, 0.5, 0.75)),
    "gaussian blur": (blur, (0.05, 0.1, 0.15, 0.25)),
    "black rectangles": (rectangles, (0.1, 0.2, 0.3, 0.5)),
    "swirl": (swirl, (0.5, 1.0, 2.0, 4.0)),
    "salt and pepper": (salt_and_pepper, (0.02, 0.05, 0.1, 0.3)),
}
CONTAMINATION = (0.1, 0.25, 0.5, 0.75)
