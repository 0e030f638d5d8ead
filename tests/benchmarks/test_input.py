"""What the benchmark of the input measures, on sources whose speed is known."""

import json
import time

import numpy as np
import pytest
import recipes
from PIL import Image

from benchmarks import input as benchmark
from genjax import data
from genjax.data import pipeline, sources


@pytest.mark.parametrize("threads, in_memory", [(0, True), (1, False), (2, True)])
def test_images_a_second_of_a_slow_source(threads, in_memory, monkeypatch):
    """Ten milliseconds an example: at most a hundred a second of each thread.

    Of 15 examples a thread, its batch of four may have begun before.
    """
    digits, limits = data.load({"name": "digits"}), []

    def read(i):
        time.sleep(0.01)
        return digits.train[i]

    def batches(phase):
        limits.append(sources.IN_MEMORY_BYTES)
        num_threads = phase.config.data.num_threads
        slow = sources.OnDemand("slow", len(digits.train), read)
        return pipeline.batches(slow, batch_size=4, num_threads=num_threads)

    monkeypatch.setattr(benchmark.phases.Phase, "batches", batches)
    limit = sources.IN_MEMORY_BYTES
    row = benchmark.rate(recipes.get("vae_digits"), threads, 0.15, in_memory=in_memory)
    assert 0 < row["images_per_s"] < 100 * max(threads, 1) * 19 / 15
    # Sleeping takes no processor time.
    assert row["images_per_s_of_a_core"] > 2 * row["images_per_s"]
    assert limits == [limit if in_memory else 0] and limit == sources.IN_MEMORY_BYTES


def test_the_trainers_wait_for_batches_is_found(monkeypatch):
    """Batches that take 50 ms against a tiny step; the loop asks for 13."""
    gather = pipeline.gather

    def slow(*args):
        time.sleep(0.05)
        return gather(*args)

    monkeypatch.setattr(pipeline, "gather", slow)
    row = benchmark.loop_waits(recipes.get("vae_digits"), 12)
    assert row["steps"] == 12 - 3  # A quarter warms up.
    assert 0.5 < row["share"] <= 1
    assert row["share"] == pytest.approx(row["ms_waited"] / row["ms_per_step"])
    assert row["ms_per_step"] > 25  # Some were ready before the first was timed.


def test_waits_are_those_between_two_requests():
    """Asked at 0, 10, 20, 30 s and given after 1, 2, 3, 4: the 2nd and 3rd count."""
    clocked = benchmark.Clocked(iter(()))
    clocked.asked, clocked.given = [0.0, 10.0, 20.0, 30.0], [1.0, 12.0, 23.0, 34.0]
    assert clocked.waits(1) == dict(
        steps=2, ms_per_step=1e4, ms_waited=2500, share=0.25
    )


@pytest.mark.parametrize("suffix, low, high", [(".jpg", 0.08, 0.5), (".png", 1, 2.5)])
def test_photos_compress_as_photos_do(suffix, low, high, tmp_path):
    """Bytes a pixel: up to a half in JPEG and two in PNG are usual; noise has 3."""
    benchmark.make_folder(tmp_path / "images", suffix, 2)
    paths = sorted((tmp_path / "images").iterdir())
    sizes = [Image.open(path).size for path in paths]
    assert sizes == [(256, 256), (320, 280)]
    for path, (width, height) in zip(paths, sizes, strict=True):
        assert low < path.stat().st_size / (width * height) < high


def test_the_table_sets_the_input_against_the_step(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(benchmark.runtime, "start", lambda: None)  # It has started.
    flags = ["--data=png", "--threads=0", "--seconds=0.01", "--images=3", "--loops"]
    out = tmp_path / "input.json"
    monkeypatch.setattr(
        "sys.argv",
        ["input", *flags, "--step_images_per_s", "png=50", f"--out={out}"],
    )
    benchmark.main()
    lines = capsys.readouterr().out.splitlines()
    kept = [line.split(" | ") for line in lines if line.startswith("| png")]
    assert [cells[1] for cells in kept] == ["in memory", "decoded each time"]
    for cells, row in zip(kept, json.loads(out.read_text())["pipelines"], strict=True):
        assert cells[6] == "50" and row["threads"] == 0
        ratio = float(cells[7].removesuffix(" |").replace(",", ""))
        assert ratio == pytest.approx(row["images_per_s"] / 50, abs=0.06)


def test_a_step_eats_as_many_images_as_it_trains_on(monkeypatch):
    """Steps of a batch of 128 that take 20 ms: 6,400 images a second at most."""
    monkeypatch.setattr(
        benchmark, "trainer_step", lambda *_: (lambda: time.sleep(0.02), 0)
    )
    found = benchmark.eaten(benchmark.SOURCES["mnist"], 0.0)
    assert np.isfinite(found) and 640 < found <= 6400
