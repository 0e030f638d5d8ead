import itertools
import json
import threading

import numpy as np
import pytest

from genjax.data import batches, pipeline
from genjax.data.pipeline import gather
from genjax.data.sources import InMemory, OnDemand


def _images(count, entries=("image",)):
    """Images in which no row equals its mirror image and no two images are alike."""
    levels = np.random.RandomState(0).randint(256, size=(count, 2, 3, 1))
    columns = {name: levels.astype(np.uint8) for name in entries}
    columns["label"] = np.arange(count, dtype=np.int32) % 4
    return InMemory("images", count, lambda: columns)


def _take(iterator, count):
    return list(itertools.islice(iterator, count))


def _assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
        assert a[name].dtype == b[name].dtype


def test_every_epoch_is_a_new_permutation_though_batches_span_epochs():
    """N = 10 and B = 4: five batches are two epochs."""
    stream = _take(batches(_images(10), batch_size=4, seed=0), 10)
    index = np.concatenate([b["index"] for b in stream]).reshape(4, 10)
    np.testing.assert_array_equal(np.sort(index), np.tile(np.arange(10), (4, 1)))
    assert len({tuple(epoch) for epoch in index}) == 4


def test_entries_belong_to_the_index():
    source = _images(10)
    (batch,) = _take(batches(source, batch_size=7), 1)
    assert batch["index"].dtype == np.int64 and batch["image"].dtype == np.uint8
    for row, i in enumerate(batch["index"]):
        np.testing.assert_array_equal(batch["image"][row], source[i]["image"])
        assert batch["label"][row] == i % 4


def test_permutations_are_uniform():
    """The 6 orders of 3 examples over 1,200 epochs, 200 expected of each.

    The statistic is chi-squared with 5 degrees of freedom: P(> 25.7) = 1e-4.
    """
    stream = _take(batches(_images(3), batch_size=3), 1200)
    _, counts = np.unique([b["index"] for b in stream], axis=0, return_counts=True)
    assert len(counts) == 6
    assert np.sum((counts - 200) ** 2 / 200) < 25.7


def test_neighbouring_seeds_share_no_epoch():
    """Seeding epoch e with seed + e would give (0, 1) and (1, 0) the same order."""
    second = _take(batches(_images(64), batch_size=64, seed=0), 2)[1]["index"]
    first = _take(batches(_images(64), batch_size=64, seed=1), 1)[0]["index"]
    assert np.sum(first == second) < 10  # One match is expected by chance.


def test_order_stays_what_checkpoints_rely_on():
    (batch,) = _take(batches(_images(8), batch_size=8, seed=3), 1)
    assert batch["index"].tolist() == PINNED


PINNED = [1, 0, 2, 7, 5, 3, 6, 4]  # Recorded.


@pytest.mark.parametrize("num_micro", [None, 3])
@pytest.mark.parametrize("process_count", [2, 4])
def test_global_batch_is_the_same_for_any_number_of_processes(process_count, num_micro):
    source = _images(10)
    options = dict(batch_size=8, num_micro=num_micro, random_flip=True, seed=5)
    whole = _take(batches(source, **options), 4)
    shares = [
        _take(
            batches(source, **options, process_index=p, process_count=process_count), 4
        )
        for p in range(process_count)
    ]
    axis = 0 if num_micro is None else 1
    for step, expected in enumerate(whole):
        parts = [share[step] for share in shares]
        joined = {k: np.concatenate([p[k] for p in parts], axis) for k in expected}
        _assert_same(joined, expected)


def test_micro_batches_are_consecutive_batches():
    source = _images(10)
    single = _take(batches(source, batch_size=4), 6)
    grouped = _take(batches(source, batch_size=4, num_micro=3), 2)
    for i, batch in enumerate(grouped):
        three = single[3 * i : 3 * i + 3]
        _assert_same(batch, {k: np.stack([b[k] for b in three]) for k in batch})


@pytest.mark.parametrize(("num_threads", "prefetch"), [(0, 0), (1, 2), (3, 7)])
def test_resumed_iterator_sees_the_very_next_example(num_threads, prefetch):
    options = dict(
        batch_size=4,
        num_micro=2,
        random_flip=True,
        num_threads=num_threads,
        prefetch=prefetch,
    )
    first = batches(_images(10), **options)
    _take(first, 5)
    state = json.dumps(first.get_state())
    assert len(state) < 100
    expected = _take(first, 4)

    resumed = batches(_images(10), **options)
    _take(resumed, 2)  # What it prefetched must be dropped.
    resumed.set_state(json.loads(state))
    for a, b in zip(_take(resumed, 4), expected, strict=True):
        _assert_same(a, b)


def test_state_is_the_same_on_all_processes():
    states = []
    for p in range(2):
        iterator = batches(
            _images(10), batch_size=4, process_index=p, process_count=2, prefetch=3
        )
        _take(iterator, 3)
        states.append(iterator.get_state())
    assert states[0] == states[1]


@pytest.mark.parametrize("process_count", [1, 4])
def test_evaluation_reads_each_example_once_in_order(process_count):
    """N = 10 and B = 8: the second batch has 2 rows, both with process 0 of 4."""
    shares = [
        list(
            batches(
                _images(10),
                batch_size=8,
                shuffle=False,
                repeat=False,
                process_index=p,
                process_count=process_count,
            )
        )
        for p in range(process_count)
    ]
    assert [len(share) for share in shares] == [2] * process_count
    for step, expected in enumerate([range(8), range(8, 10)]):
        index = np.concatenate([share[step]["index"] for share in shares])
        assert index.tolist() == list(expected)
    for share in shares:
        assert share[1]["image"].shape[1:] == (2, 3, 1)


@pytest.mark.parametrize("repeat", [True, False])
def test_sources_in_memory_and_on_demand_give_the_same_batches(repeat):
    source = _images(10)
    lazy = OnDemand("images", 10, lambda i: source[i])
    options = dict(batch_size=8, repeat=repeat, random_flip=True, num_threads=2)
    for a, b in zip(
        _take(batches(lazy, **options), 2),
        _take(batches(source, **options), 2),
        strict=True,
    ):
        _assert_same(a, b)


def test_as_many_batches_as_cores_are_decoded_at_a_time(monkeypatch):
    """No read ends before two others have begun; from memory, one thread suffices."""
    monkeypatch.setattr(pipeline.os, "cpu_count", lambda: 3)
    source, together = _images(9), threading.Barrier(3, timeout=20)

    def read(i):
        together.wait()
        return source[i]

    lazy = _take(batches(OnDemand("images", 9, read), batch_size=1), 9)
    threads = set()

    class Watched(InMemory):
        @property
        def columns(self):
            threads.add(threading.get_ident())
            return source.columns

    kept = _take(batches(Watched("images", 9, dict), batch_size=1), 9)
    assert len(threads) == 1
    for a, b in zip(lazy, kept, strict=True):
        _assert_same(a, b)


def test_gathering_nothing_on_demand_keeps_shapes():
    source = _images(10)
    lazy = OnDemand("images", 10, lambda i: source[i])
    nothing = np.empty(0, np.int64)
    _assert_same(gather(lazy, nothing), gather(source, nothing))


def test_half_of_the_images_are_mirrored_left_to_right():
    """2,000 coins: 1,000 heads with a standard deviation of 22."""
    source = _images(20, ("image", "image_b"))
    flipped, seen = 0, {i: set() for i in range(20)}
    for batch in _take(batches(source, batch_size=20, random_flip=True), 100):
        for row, i in enumerate(batch["index"]):
            image, original = batch["image"][row], source[i]["image"]
            # The two images of a pair are turned together.
            np.testing.assert_array_equal(image, batch["image_b"][row])
            if not np.array_equal(image, original):
                np.testing.assert_array_equal(image, original[:, ::-1])
                flipped += 1
            seen[i].add(image.tobytes())
    assert abs(flipped - 1000) < 4 * 22.4
    assert all(len(images) == 2 for images in seen.values())


def test_mirroring_leaves_the_source_alone():
    source = _images(20)
    before = source.columns["image"].copy()
    _take(batches(source, batch_size=20, random_flip=True), 3)
    np.testing.assert_array_equal(source.columns["image"], before)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(batch_size=6, process_count=4), "multiple.*batch_size 6 and 4 processes"),
        (dict(batch_size=0), "positive"),
        (dict(batch_size=4, process_index=1), "process_index < 1, got 1"),
        (dict(batch_size=4, num_micro=2, repeat=False), "needs repeat"),
        (dict(batch_size=4, seed=-1), "seed.*-1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        batches(_images(10), **options)


def test_an_empty_source_is_refused():
    with pytest.raises(ValueError, match="no examples"):
        batches(InMemory("none", 0, dict), batch_size=1)
