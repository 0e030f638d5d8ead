"""What glibc keeps between two train steps, by page faults and resident memory."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from genjax.train import loop, memory

ROOT = Path(__file__).parents[2]

needs_glibc = pytest.mark.skipif(
    memory.glibc() is None, reason="glibc is not there, or set by the environment"
)


def in_a_process(code: str) -> list[float]:
    """The numbers that it prints; which arena a thread has is settled once."""
    start = """
        import resource
        import jax, jax.numpy as jnp, numpy as np
        from genjax.train import memory
        memory.use_one_arena()
        heap = memory.Heap()
    """
    code = textwrap.dedent(start) + textwrap.dedent(code)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return [float(number) for number in done.stdout.split()]


@needs_glibc
def test_a_step_finds_the_pages_of_the_step_before():
    """10 calls with a temporary of 64 MB, of which each page of 4 kB is a fault."""
    before, kept = in_a_process("""
        step, x = jax.jit(lambda x: jnp.sin(x @ x.T) @ x), jnp.ones((4000, 10))

        def faults():
            for _ in range(10):
                step(x).block_until_ready()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(10):
                step(x).block_until_ready()
                heap.check()
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        print(faults())
        heap.keep()
        print(faults())
    """)
    assert before > 100_000
    assert kept < before / 3  # Now and then a block does not fit again.


@needs_glibc
def test_no_more_than_twice_the_first_step_is_kept():
    first, most, checked, aside, released = in_a_process("""
        def use(size):
            blocks = [np.ones(size // 80) for _ in range(10)]

        use(4 * 10**8)
        heap.keep()
        heap.check()
        print(memory.resident_memory())
        use(3 * heap.bound)
        print(memory.resident_memory())
        heap.check()
        print(memory.resident_memory())
        with heap.aside():
            use(2 * heap.bound)
            print(memory.resident_memory())
        heap.release()
        print(memory.resident_memory())
    """)
    assert most > 2.5 * first
    assert checked < 1.5 * first and aside < 1.5 * first and released < 1.5 * first


@needs_glibc
def test_nothing_is_kept_where_memory_is_scarce(monkeypatch):
    heap = memory.Heap()
    heap.keep()
    assert heap.library is None  # This process did not ask for one arena.
    monkeypatch.setattr(memory.Heap, "may_keep", True)
    monkeypatch.setattr(memory, "host_memory", lambda: 3 * memory.resident_memory())
    heap.keep()
    assert heap.library is not None
    heap.check()
    assert heap.library is None
    heap.check()


@pytest.mark.parametrize(
    "name, value",
    [
        ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
        ("MALLOC_ARENA_MAX", "2"),
        ("LD_PRELOAD", "libjemalloc.so"),
    ],
)
def test_what_the_user_set_stays(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(memory.Heap, "may_keep", True)
    memory.glibc.cache_clear()
    try:
        assert memory.glibc() is None
        heap = memory.Heap()
        heap.keep()
        assert heap.library is None
        heap.check()
        heap.release()
    finally:
        memory.glibc.cache_clear()


def test_a_containers_limit_is_the_memory_there_is(monkeypatch, tmp_path):
    whole = memory.host_memory()
    monkeypatch.setattr(memory, "LIMITS", (tmp_path / "max", tmp_path / "none"))
    for text, expected in (("max\n", whole), ("12345678\n", 12345678)):
        (tmp_path / "max").write_text(text)
        assert memory.host_memory() == expected


def test_training_keeps_memory_within_its_steps_alone(config, monkeypatch, tmp_path):
    """Evaluations and samples, of other sizes, are as if nothing were kept."""
    told = []

    class Heap(memory.Heap):
        def set(self, options):
            told.append(options)

        def check(self):
            told.append("step")

    evaluate = loop.Runner.evaluate
    monkeypatch.setattr(loop, "Heap", Heap)
    monkeypatch.setattr(
        loop.Runner, "evaluate", lambda *args: told.append("eval") or evaluate(*args)
    )
    assert loop.train(config, tmp_path)
    keeping, usual = memory.KEEPING, memory.USUAL
    assert told == [
        keeping, "step", usual, "eval", keeping, "step", usual, "eval", keeping, usual
    ]  # fmt: skip


@needs_glibc
def test_the_command_that_trains_keeps(tmp_path):
    code = f"""
        import runpy, sys
        sys.argv = ["train.py", "--config=configs/vae_digits.py:tiny",
                    "--workdir={tmp_path}", "--config.num_steps=1",
                    "--config.eval_every=0", "--config.sample_every=0"]
        try:
            runpy.run_path("train.py", run_name="__main__")
        finally:
            print(int(memory.Heap.may_keep))
    """
    start = "from genjax.train import memory\n" + textwrap.dedent(code)
    command = [sys.executable, "-c", start]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr[-2000:]


@pytest.fixture
def config():
    """Two steps, each with an evaluation."""
    from configs import vae_digits

    config = vae_digits.get_config("tiny")
    config.num_steps, config.eval_every, config.sample_every = 2, 1, 0
    return config
