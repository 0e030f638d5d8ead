"""The benchmark of accelerators, on what there is."""

from benchmarks import accelerator


def test_a_step_is_timed_fed_and_unfed(monkeypatch):
    """What it does in a second cannot be more than what matrix products reach."""
    monkeypatch.setattr(accelerator, "CALLS", 2)
    with accelerator.random_images() as folder:
        plan = list(accelerator.tasks("tiny", folder, [4], with_torch=False))
        assert [f"{task}, {dtype}" for task, dtype, *_ in plan[:3]] == [
            "train, bfloat16",
            "DDIM-50, bfloat16",
            "train, float32",
        ]
        _, dtype, _, _, contenders = plan[0]
        ceiling = accelerator.measure_ceiling(dtype)
        found = accelerator.measure(contenders(), 1, ceiling)
    assert list(found) == ["genjax", "genjax, fed"]
    for name, row in found.items():
        assert 0 < row["mfu"] < 1 and 1e-4 < row["peak_gib"] < 1
        assert accelerator.line("train", name, row).count("|") == 7
