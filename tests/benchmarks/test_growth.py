"""Exponents of growth, against power laws, closed forms and a tiny run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from benchmarks import growth, steps


def test_exponents_of_a_power_law_and_of_what_hides_one():
    x = (8, 16, 32, 64)
    assert growth.fit(x, [3 * n**1.7 for n in x]) == pytest.approx((1.7, 0, 1.7))
    # Linear with a fixed cost: the slope of log(40 + x) is x / (40 + x), and rises.
    slope, error, last = growth.fit(x, [40 + n for n in x])
    assert 8 / 48 < slope < 32 / 72 < last < 64 / 104 and error > 0


def test_the_standard_error_is_that_of_the_noise():
    """Noise of 5 % on four sizes: the errors' spread over many fits is the average."""
    x, rng = np.array([1, 2, 4, 8]), np.random.RandomState(0)
    fits = [growth.fit(x, x * np.exp(0.05 * rng.randn(4))) for _ in range(400)]
    slopes, errors, _ = map(np.array, zip(*fits, strict=True))
    expected = 0.05 / np.log(x).std() / 2
    assert slopes.std() == pytest.approx(expected, rel=0.12)
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(expected, rel=0.12)


@pytest.mark.parametrize(
    "against, exponent, error, last, worse",
    [
        ("images", 1.0, 0.0, 1.0, False),
        ("images", 1.2, 0.15, 1.05, False),
        ("images", 1.2, 0.05, 1.05, True),
        ("images", 0.8, 0.05, 1.3, True),
        ("side", 2.0, 0.0, 2.0, False),
    ],
)
def test_worse_than_linear_in_images(against, exponent, error, last, worse):
    found = growth.Growth(
        "vae", "sampling", "time", against, (1, 2), (1, 2), exponent, error, last
    )
    assert found.worse == worse
    assert growth.said(found).endswith("worse") == worse


def test_memory_counts_what_is_given_away_once():
    x = jax.ShapeDtypeStruct((1000,), jnp.float32)
    plain = jax.jit(lambda x: x + 1).lower(x).compile()
    given = jax.jit(lambda x: x + 1, donate_argnums=0).lower(x).compile()
    assert steps.peak_bytes(plain) == 8000 and steps.peak_bytes(given) == 4000


def test_a_tiny_vae_grows_linearly_and_is_shared_by_chips(
    tmp_path, monkeypatch, capsys
):
    """Memory is a + b n in n images, and each of two chips does half of the work."""
    entry = growth.Entry("vae_digits", batches=(64, 128, 256), sides=(8, 12), batch=64)
    monkeypatch.setitem(growth.METHODS, "vae", entry)
    monkeypatch.setattr(growth.runtime, "start", lambda: None)  # It has started.
    out = tmp_path / "growth.json"
    words = ["--methods", "vae", "--tiny", "--seconds=0.1", "--chips", "1", "2"]
    monkeypatch.setattr("sys.argv", ["growth.py", *words, f"--out={out}"])
    growth.main()
    rows = json.loads(out.read_text())["growth"]
    found = {(g["task"], g["against"], g["of"]): g for g in rows}
    assert len(found) == 16
    for task in ("train step", "sampling"):
        memory = found[task, "images", "memory"]
        line = stats.linregress(memory["x"], memory["y"])
        assert line.rvalue > 0.999 and line.intercept > 0
        assert 0.3 < memory["exponent"] <= 1 and not memory["worse"]
        assert min(found[task, "side", "time"]["y"]) > 0
        assert found[task, "images", "work"]["exponent"] == pytest.approx(1)
        work = found[task, "chips", "work"]
        assert -1.01 < work["exponent"] < -0.95 and work["x"] == [1, 2]
    said = capsys.readouterr().out.split("\n\n")
    assert [text.split("|")[3].strip() for text in said[:-1]] == [
        "images", "side", "chips",
    ]  # fmt: skip
    for text in said[:-1]:
        assert [line.split("|")[2].strip() for line in text.splitlines()[2:]] == [
            "train step", "sampling",
        ]  # fmt: skip
