"""Generated data with a known density, for exact checks of likelihoods and samples.

`ring` and `grid` are mixtures of 8 and 25 narrow Gaussians in the plane, where dropped
modes are easily counted; `moons`, `checkerboard` and `rings` are points in the plane
whose density has an odd shape; `blobs` are small grey images with a spot whose place
depends on the class. A set's density is `load(...).density` or `DENSITIES[name]`.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np

NUM_TRAIN, NUM_TEST = 20_000, 4_000
_SEEDS = {"train": 0, "test": 1}


@dataclass(frozen=True)
class GaussianMixture:
    """Equally likely round Gaussians in the plane.

    Attributes:
        means: Centres, float [K, 2].
        sigma: Standard deviation of each coordinate about its centre.
    """

    means: np.ndarray
    sigma: float
    entry = "point"
    shape = (2,)

    @property
    def num_classes(self) -> int:
        """K, one class for each component."""
        return len(self.means)

    def log_prob(
        self, points: np.ndarray, label: np.ndarray | None = None
    ) -> np.ndarray:
        """Log-density in nats, float64 [B], of points [B, 2]; given int [B] labels."""
        offsets = np.asarray(points, np.float64)[:, None] - self.means
        log_probs = -np.sum(offsets**2, -1) / (2 * self.sigma**2)
        log_probs -= math.log(2 * math.pi * self.sigma**2)
        if label is not None:
            return log_probs[np.arange(len(log_probs)), label]
        return _logsumexp(log_probs) - math.log(len(self.means))

    def draw(self, random: np.random.RandomState, count: int) -> dict[str, np.ndarray]:
        """Independent examples: `point` float32 [count, 2], `label` int32 [count]."""
        label = random.randint(self.num_classes, size=count)
        point = self.means[label] + self.sigma * random.standard_normal((count, 2))
        return {"point": point.astype(np.float32), "label": label.astype(np.int32)}


@dataclass(frozen=True)
class Moons:
    """Two half circles in the plane that reach into each other, blurred by a Gaussian.

    A point is centre + radius (cos t, +-sin t) + sigma z with t uniform in [0, pi] and
    z normal. The density is an integral over t, by Gauss-Legendre quadrature: for sigma
    of at least a twentieth of the radius, its nodes are near enough for 8 digits.

    Attributes:
        radius: Of each half circle.
        sigma: Standard deviation of each coordinate about it.
    """

    radius: float = 2.0
    sigma: float = 0.2
    entry = "point"
    shape = (2,)
    num_classes = 2

    def curve(self, t: np.ndarray, label: np.ndarray | int) -> np.ndarray:
        """Points [..., 2] of the half circle `label` at the angles t [...]."""
        sign = 1 - 2 * np.asarray(label)  # The first is open below, the second above.
        x = sign * (self.radius * np.cos(t) - self.radius / 2)
        y = sign * (self.radius * np.sin(t) - self.radius / 4)
        return np.stack([x, y], axis=-1)

    def log_prob(
        self, points: np.ndarray, label: np.ndarray | None = None
    ) -> np.ndarray:
        """Log-density in nats, float64 [B], of points [B, 2]; given int [B] labels."""
        nodes, weights = np.polynomial.legendre.leggauss(128)
        curves = self.curve(np.pi / 2 * (nodes + 1), np.arange(2)[:, None])
        offsets = np.asarray(points, np.float64)[:, None, None] - curves
        log_probs = -np.sum(offsets**2, -1) / (2 * self.sigma**2)
        log_probs -= math.log(2 * math.pi * self.sigma**2)
        by_class = _logsumexp(log_probs + np.log(weights / 2))
        if label is not None:
            return by_class[np.arange(len(by_class)), label]
        return _logsumexp(by_class) - math.log(2)

    def draw(self, random: np.random.RandomState, count: int) -> dict[str, np.ndarray]:
        """Independent examples: `point` float32 [count, 2], `label` int32 [count]."""
        label = random.randint(2, size=count)
        point = self.curve(np.pi * random.uniform(size=count), label)
        point = point + self.sigma * random.standard_normal((count, 2))
        return {"point": point.astype(np.float32), "label": label.astype(np.int32)}


@dataclass(frozen=True)
class Checkerboard:
    """The uniform density on the eight dark squares of a 4 x 4 board.

    Attributes:
        side: Of one square; the board is centred at 0.
    """

    side: float = 2.0
    entry = "point"
    shape = (2,)
    num_classes = 8

    def log_prob(
        self, points: np.ndarray, label: np.ndarray | None = None
    ) -> np.ndarray:
        """Log-density in nats, float64 [B], of points [B, 2]; given int [B] labels.

        Minus infinity off the dark squares.
        """
        cell = np.floor(np.asarray(points, np.float64) / self.side).astype(int) + 2
        row, column = cell[:, 1], cell[:, 0]
        inside = ((cell >= 0) & (cell < 4)).all(-1) & ((row + column) % 2 == 0)
        if label is not None:
            inside &= 2 * row + column // 2 == label
        count = self.num_classes if label is None else 1
        return np.where(inside, -math.log(count * self.side**2), -np.inf)

    def draw(self, random: np.random.RandomState, count: int) -> dict[str, np.ndarray]:
        """Independent examples: `point` float32 [count, 2], `label` int32 [count]."""
        label = random.randint(8, size=count)
        row = label // 2
        corner = np.stack([2 * (label % 2) + row % 2, row], axis=-1) - 2
        # Nearer to its upper edge, float32 would round a point into the next square.
        point = self.side * (corner + random.uniform(0, 1 - 1e-6, size=(count, 2)))
        return {"point": point.astype(np.float32), "label": label.astype(np.int32)}


@dataclass(frozen=True)
class Rings:
    """Equally likely concentric circles whose radius is blurred by a Gaussian.

    The angle is uniform and the radius N(r_k, sigma^2), so the density at distance r is
    the mean over k of N(r; r_k, sigma^2) / (2 pi r). It is exact as long as radii many
    sigma below r_k, and with them negative ones, are never drawn.

    Attributes:
        radii: r_k of each circle.
        sigma: Standard deviation of the radius.
    """

    radii: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0)
    sigma: float = 0.1
    entry = "point"
    shape = (2,)

    @property
    def num_classes(self) -> int:
        """One class for each circle."""
        return len(self.radii)

    def log_prob(
        self, points: np.ndarray, label: np.ndarray | None = None
    ) -> np.ndarray:
        """Log-density in nats, float64 [B], of points [B, 2]; given int [B] labels."""
        r = np.linalg.norm(np.asarray(points, np.float64), axis=-1, keepdims=True)
        r = np.maximum(r, 1e-12)
        log_probs = -((r - np.asarray(self.radii)) ** 2) / (2 * self.sigma**2)
        log_probs -= np.log((2 * math.pi) ** 1.5 * self.sigma * r)
        if label is not None:
            return log_probs[np.arange(len(log_probs)), label]
        return _logsumexp(log_probs) - math.log(self.num_classes)

    def draw(self, random: np.random.RandomState, count: int) -> dict[str, np.ndarray]:
        """Independent examples: `point` float32 [count, 2], `label` int32 [count]."""
        label = random.randint(self.num_classes, size=count)
        angle = 2 * np.pi * random.uniform(size=count)
        r = np.asarray(self.radii)[label] + self.sigma * random.standard_normal(count)
        point = r[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        return {"point": point.astype(np.float32), "label": label.astype(np.int32)}


@dataclass(frozen=True)
class Blobs:
    """Grey 8x8 images of a bright spot, with an exact probability for each image.

    The class says in which quadrant the spot lies and one of 9 equally likely places
    there (a 3x3 neighbourhood) is its centre. Given the centre, pixels are independent:
    round(mean + sigma z) clipped to [0, 255] with z normal. So P(image) is a sum over
    36 centres, and the pixels of an image depend on each other through the centre.

    Attributes:
        sigma: Standard deviation of the noise, in grey levels.
        background: Mean of the pixels far from the spot.
        height: Mean of the spot's top above the background.
        width: Standard deviation of the spot's shape, in pixels.
    """

    sigma: float = 12.0
    background: float = 40.0
    height: float = 180.0
    width: float = 1.0
    num_classes = 4
    entry = "image"
    shape = (8, 8, 1)

    @functools.cached_property
    def means(self) -> np.ndarray:
        """Mean images before rounding and clipping, float [4, 9, 8, 8, 1]."""
        rows, columns = np.mgrid[:8, :8]
        steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        centres = np.array(
            [[(y + dy, x + dx) for dy, dx in steps] for y in (2, 5) for x in (2, 5)]
        )[..., None, None]
        squares = (rows - centres[:, :, 0]) ** 2 + (columns - centres[:, :, 1]) ** 2
        spot = self.height * np.exp(-squares / (2 * self.width**2))
        return (self.background + spot)[..., None]

    def log_prob(
        self, image: np.ndarray, label: np.ndarray | None = None
    ) -> np.ndarray:
        """Log-probability in nats, float64 [B], of uint8 images; given int labels."""
        pixels = np.asarray(image).reshape(-1, 64)
        # [36, 64, 256] at [:, pixel, its level] is [36, B, 64].
        log_probs = self._log_pmf[:, np.arange(64), pixels].sum(-1)
        by_class = _logsumexp(log_probs.reshape(4, 9, -1).transpose(2, 0, 1))
        by_class -= math.log(9)
        if label is not None:
            return by_class[np.arange(len(by_class)), label]
        return _logsumexp(by_class) - math.log(4)

    @functools.cached_property
    def _log_pmf(self) -> np.ndarray:
        """Log-probability of each grey level: float64 [36 centres, 64 pixels, 256]."""
        means = self.means.reshape(36, 64, 1)
        edges = (np.arange(1, 256) - 0.5 - means) / self.sigma
        # Differences of upper tails lose all digits below the mean, lower ones above.
        tail = np.vectorize(lambda z: 0.5 * math.erfc(z / math.sqrt(2)))
        upper, lower = tail(edges), tail(-edges)
        ones = np.ones_like(means)
        from_above = -np.diff(upper, axis=-1, prepend=ones, append=0 * ones)
        from_below = np.diff(lower, axis=-1, prepend=0 * ones, append=ones)
        with np.errstate(divide="ignore"):
            return np.log(np.where(np.arange(256) > means, from_above, from_below))

    def draw(self, random: np.random.RandomState, count: int) -> dict[str, np.ndarray]:
        """Independent examples: `image` uint8 [count, 8, 8, 1], `label` int32."""
        label, place = random.randint(4, size=count), random.randint(9, size=count)
        noise = self.sigma * random.standard_normal((count, *self.shape))
        image = np.clip(np.rint(self.means[label, place] + noise), 0, 255)
        return {"image": image.astype(np.uint8), "label": label.astype(np.int32)}


def _ring() -> GaussianMixture:
    angles = 2 * np.pi * np.arange(8) / 8
    return GaussianMixture(2 * np.stack([np.cos(angles), np.sin(angles)], -1), 0.02)


def _grid() -> GaussianMixture:
    ticks = np.arange(-4.0, 5.0, 2.0)
    return GaussianMixture(np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2), 0.05)


DENSITIES: dict[str, GaussianMixture | Moons | Checkerboard | Rings | Blobs] = {
    "ring": _ring(),
    "grid": _grid(),
    "moons": Moons(),
    "checkerboard": Checkerboard(),
    "rings": Rings(),
    "blobs": Blobs(),
}


def examples(name: str, split: str) -> dict[str, np.ndarray]:
    """The fixed "train" (20,000) or "test" (4,000) examples, by entry."""
    # numpy promises that the streams of RandomState never change.
    random = np.random.RandomState(_SEEDS[split])
    return DENSITIES[name].draw(random, NUM_TRAIN if split == "train" else NUM_TEST)


def _logsumexp(values: np.ndarray) -> np.ndarray:
    """log(sum(exp(values))) over the last axis."""
    top = values.max(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(values - np.maximum(top, -1e300)).sum(-1)) + top[..., 0]
