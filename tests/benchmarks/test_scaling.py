"""Weak scaling: what a tiny step exchanges, and how a trace is read."""

import json
from types import SimpleNamespace

import pytest

from benchmarks import scaling, steps

RECIPE = f"{steps.ROOT}/configs/vae_digits.py:tiny"


def test_two_devices_exchange_each_weight_once(tmp_path, monkeypatch, capsys):
    """The sum of gradients is as large as the weights; a few logged numbers go along.

    The layers are 64 -> 16 -> 2 x 3 and 3 -> 16 -> 64, with biases. As many exchanges
    are traced as the program's text says, and one device exchanges nothing.
    """
    monkeypatch.setattr(scaling.runtime, "start", lambda: None)  # It has started.
    out = tmp_path / "scaling.json"
    words = ["--devices", "2", "--seconds=0.1", "--per_device_batch=4", f"--out={out}"]
    monkeypatch.setattr("sys.argv", ["scaling.py", "--config", RECIPE, *words])
    scaling.main()
    (row,) = json.loads(out.read_text())["rows"]
    assert set(row["collectives"]) == {"all-reduce"} and row["batch_size"] == 8
    found = row["collectives"]["all-reduce"]
    weights = 65 * 16 + 17 * 6 + 4 * 16 + 17 * 64
    assert row["parameter_bytes"] == 4 * weights
    assert 0 <= found["payload_bytes"] - row["parameter_bytes"] <= 64
    assert row["traced_exchanges"] == found["count"]
    assert row["exchange_seconds"] > 0 and 0 < row["share"] < 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("| `vae_digits")
    alone = scaling.measure(RECIPE, 1, per_device_batch=4, seconds=0.1)
    assert alone["collectives"] == {} and alone["share"] == 0
    assert alone["batch_size"] == 4 and alone["images_per_second"] > 0


def event(name, start, duration, device=None, run=0):
    stats = {"hlo_op": name, "run_id": run, "device_ordinal": device}
    return SimpleNamespace(
        name=name,
        start_ns=start,
        duration_ns=duration,
        stats=stats.items() if device is not None else (),
    )


def test_who_comes_first_waits():
    """Two steps of 100 ns; in the first a loop's exchange runs twice.

    On device 0 it takes 30 and 4, on device 1 10 and 4: the exchange is 10 + 4, and
    the waiting (30 + 10) / 2 - 10. The second step adds one of 6 and 8.
    """
    events = [
        event("whole step", 0, 100),
        event("whole step", 100, 100),
        event("all-reduce.1", 50, 4, device=0),
        event("all-reduce.1", 10, 30, device=0),
        event("all-reduce.1", 30, 10, device=1),
        event("all-reduce.1", 51, 4, device=1),
        event("all-reduce.1", 120, 6, device=0, run=1),
        event("all-reduce.1", 118, 8, device=1, run=1),
        event("fusion.2", 60, 40, device=0),
        event("all-reduce.1", 10, 1000),  # Of another thread, without a device.
    ]
    found = scaling.in_collectives(events, 2)
    assert found["traced_exchanges"] == 3 / 2
    assert found["exchange_seconds"] == pytest.approx((10 + 4 + 6) / 2 / 1e9)
    assert found["waiting_seconds"] == pytest.approx((10 + 0 + 1) / 2 / 1e9)
    assert found["share"] == pytest.approx((20 + 4 + 7) / 200)


def test_efficiency_is_against_the_first_count():
    rows = [
        dict(config="configs/a.py", devices=n, batch_size=8 * n, seconds=1.0)
        | dict(images_per_second=speed)
        for n, speed in [(2, 100.0), (4, 150.0)]
    ]
    last = [line.split("|")[-2].strip() for line in scaling.table(rows).splitlines()]
    assert last == ["efficiency", "---", "1.000", "0.750"]
