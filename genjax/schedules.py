"""Noise schedules: how much of the image is left after each diffusion step.

Schedules are float64 numpy arrays, made once and closed over as constants. The kept
power `alphas_cumprod` is within 1e-4 of one at the first steps, so float32 has only
three digits of 1 - alphas_cumprod there; math that starts from float64 keeps them all.
"""

import numpy as np


def linear(
    num_steps: int, beta_min: float = 1e-4, beta_max: float = 0.02
) -> np.ndarray:
    """Betas in even steps from `beta_min` to `beta_max`, both included.

    The defaults are DDPM's, for 1000 steps; another number of steps needs other ends
    for the last image to be noise.

    Returns:
        Noise variances, float64 [T].

    Raises:
        ValueError: Unless num_steps >= 1 and 0 < beta_min <= beta_max < 1.

    Reference: Ho et al., arXiv:2006.11239, Sec. 4.
    """
    _check_num_steps(num_steps)
    if not 0 < beta_min <= beta_max < 1:
        raise ValueError(
            f"linear needs 0 < beta_min <= beta_max < 1, got {beta_min} and {beta_max}"
        )
    return np.linspace(beta_min, beta_max, num_steps)


def cosine(num_steps: int, s: float = 0.008, max_beta: float = 0.999) -> np.ndarray:
    """Betas whose kept power follows a squared cosine.

    alphas_cumprod = f(t) / f(0) with f(t) = cos^2((t / T + s) / (1 + s) * pi / 2) after
    t = 1..T steps. The last betas are held below `max_beta`, where f reaches zero.

    Returns:
        Noise variances, float64 [T].

    Raises:
        ValueError: Unless num_steps >= 1, s >= 0 and 0 < max_beta < 1.

    Reference: Nichol & Dhariwal, arXiv:2102.09672, Eq. 17.
    """
    _check_num_steps(num_steps)
    if s < 0:
        raise ValueError(f"cosine needs an offset s >= 0, got {s}")
    time = np.arange(num_steps + 1) / num_steps
    kept = np.cos((time + s) / (1 + s) * np.pi / 2) ** 2
    return _betas_from_kept_power(kept, max_beta)


def sigmoid(
    num_steps: int,
    start: float = -3.0,
    end: float = 3.0,
    tau: float = 1.0,
    max_beta: float = 0.999,
) -> np.ndarray:
    """Betas whose kept power is the stretch [start, end] of a falling sigmoid.

    alphas_cumprod = (S(end) - S(x)) / (S(end) - S(start)) with S(x) = 1 / (1 +
    exp(-x / tau)) and x = start + (end - start) t / T after t = 1..T steps. Chen holds
    the kept power above 1e-9 instead of the betas below `max_beta`.

    Returns:
        Noise variances, float64 [T].

    Raises:
        ValueError: Unless num_steps >= 1, start < end, tau > 0 and 0 < max_beta < 1.

    Reference: Jabri et al., arXiv:2212.11972; Chen, arXiv:2301.10972, Algorithm 1.
    """
    _check_num_steps(num_steps)
    if not start < end or tau <= 0:
        raise ValueError(
            f"sigmoid needs start < end and tau > 0, got {start}, {end} and {tau}"
        )
    time = np.arange(num_steps + 1) / num_steps
    curve = 1 / (1 + np.exp(-(start + (end - start) * time) / tau))
    return _betas_from_kept_power(curve[-1] - curve, max_beta)


def make(name: str, num_steps: int, **kwargs: float) -> np.ndarray:
    """Makes the schedule `name`, "linear", "cosine" or "sigmoid".

    Args:
        name: Which function of this module.
        num_steps: T.
        **kwargs: Passed on to it.

    Returns:
        Noise variances, float64 [T].

    Raises:
        ValueError: If there is no schedule of this name.
    """
    schedules = {"linear": linear, "cosine": cosine, "sigmoid": sigmoid}
    if name not in schedules:
        raise ValueError(f"unknown schedule {name!r}: expected one of {[*schedules]}")
    return schedules[name](num_steps, **kwargs)


def alphas_cumprod(betas: np.ndarray) -> np.ndarray:
    """Signal power kept up to each step, the product of all 1 - beta so far.

    Args:
        betas: Noise variances, [T] in (0, 1).

    Returns:
        float64 [T], falling, in (0, 1).

    Raises:
        ValueError: If `betas` is not one row of numbers in (0, 1).
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or not betas.size or not np.all((betas > 0) & (betas < 1)):
        raise ValueError(
            f"betas must be [T] in (0, 1), got shape {betas.shape} and values {betas}"
        )
    return np.cumprod(1 - betas)


def timesteps(
    num_train_steps: int, num_steps: int, spacing: str = "uniform"
) -> np.ndarray:
    """Picks the steps that a fast sampler visits.

    Step i of S lies at (T - 1) i / (S - 1), rounded, or for "quadratic" at
    (T - 1) (i / (S - 1))^2, rounded down, which is denser near the image. The squares
    crowd together at the start; step i is moved up to i there, so that all differ.
    The first step is 0 and the last T - 1; a single step is T - 1.

    Args:
        num_train_steps: T, the length of the schedule.
        num_steps: S, how many of the steps to visit.
        spacing: "uniform" or "quadratic".

    Returns:
        Rising steps, int64 [S] in [0, T).

    Raises:
        ValueError: Unless 1 <= num_steps <= num_train_steps, or for another spacing.

    Reference: Song et al., arXiv:2010.02502, Appendix D.2. Its constant c brings the
        last step "close to" T; here c is chosen to reach it.
    """
    if not 1 <= num_steps <= num_train_steps:
        raise ValueError(
            f"num_steps must be between 1 and the {num_train_steps} steps of the "
            f"schedule, got {num_steps}"
        )
    if spacing not in ("uniform", "quadratic"):
        raise ValueError(f"spacing must be 'uniform' or 'quadratic', got {spacing!r}")
    if num_steps == 1:
        return np.array([num_train_steps - 1], np.int64)
    # In integers: in floats 100 * (7 / 10)^2 rounds down to 48.
    index, end = np.arange(num_steps, dtype=np.int64), num_steps - 1
    if spacing == "uniform":
        return (2 * (num_train_steps - 1) * index + end) // (2 * end)
    # The convex square crosses the line of slope one once, so the larger of the two
    # still rises by at least one at each step.
    return np.maximum((num_train_steps - 1) * index**2 // end**2, index)


def _betas_from_kept_power(kept: np.ndarray, max_beta: float) -> np.ndarray:
    """Betas [T] from the kept power [T + 1], known up to a factor."""
    if not 0 < max_beta < 1:
        raise ValueError(f"max_beta must be in (0, 1), got {max_beta}")
    return np.minimum(1 - kept[1:] / kept[:-1], max_beta)


def _check_num_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"a schedule needs num_steps >= 1, got {num_steps}")
