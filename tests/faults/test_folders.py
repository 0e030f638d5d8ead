"""Folders of images with everything in them that a folder should not have."""

import itertools
import os
import shutil
import socket
import struct
import time
import warnings
import zlib
from pathlib import Path

import memory
import numpy as np
import pytest
import recipes
import runs
from PIL import Image

from genjax.config import ConfigError
from genjax.data import DataError, batches, load, sources
from genjax.data import folder as reader
from genjax.train import loop

RECIPE = "configs/ddpm_folder.py:tiny"


def _noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(256, size=shape).astype(np.uint8)


def _save(path: Path, image: Image.Image | np.ndarray, kind=None, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(path, kind, **options)


def _good(folder: Path, count: int) -> None:
    for i in range(count):
        _save(folder / f"{i:03d}.png", _noise(20, 30, 3, seed=i))


def _cut(path: Path) -> None:
    """Takes the end of the pixels away, and leaves the header."""
    os.truncate(path, path.stat().st_size * 2 // 3)


def _chunk(kind: bytes, content: bytes) -> bytes:
    end = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + end


def _png(width: int, height: int, *chunks: bytes, rows: bytes = b"") -> bytes:
    """A PNG file of one bit a pixel, of zeros unless the rows are given packed."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = rows or zlib.compress(bytes(1 + (width + 7) // 8) * height)
    parts = (_chunk(b"IHDR", header), *chunks, _chunk(b"IDAT", rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join((*parts, _chunk(b"IEND", b"")))


def _text_bomb() -> bytes:
    """Eight megabytes in a comment, which take eight kilobytes."""
    return _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**23), 9))


def _tiff(tag: int, kind: int, count: int, value: int) -> bytes:
    """A TIFF file of 4 x 4 grey pixels, with a tag changed or added."""
    tags = {
        256: (3, 1, 4), 257: (3, 1, 4), 258: (3, 1, 8), 259: (3, 1, 1),
        262: (3, 1, 1), 273: (4, 1, 8), 278: (3, 1, 4), 279: (4, 1, 16),
        tag: (kind, count, value),
    }  # fmt: skip
    entries = b"".join(struct.pack("<HHII", t, *v) for t, v in sorted(tags.items()))
    table = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 24) + bytes(16) + table


def _odd_but_good(folder: Path) -> list[str]:
    """Files of all kinds that are images."""
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = [Image.fromarray(_noise(8, 8, seed=i)) for i in range(40)]
    _save(folder / "1x1.png", _noise(1, 1, 3))
    _save(folder / "prime.png", _noise(13, 17, 3))
    _save(folder / "thin.png", _noise(1, 5000, 3))
    _save(folder / "cmyk.jpg", Image.fromarray(_noise(8, 8, 4), "CMYK"))
    _save(folder / "rgba.png", _noise(8, 8, 4))
    _save(folder / "palette.gif", Image.fromarray(_noise(8, 8, 3)).quantize(9))
    _save(folder / "sixteen.png", np.full((8, 8), 40000, np.uint16))
    _save(folder / "animated.gif", grey[0], save_all=True, append_images=grey[1:])
    # Of which the first is whole, and no other is looked at.
    (folder / "shortened.gif").write_bytes((folder / "animated.gif").read_bytes())
    _cut(folder / "shortened.gif")
    _save(folder / "animated.png", grey[0], save_all=True, append_images=grey[1:])
    _save(folder / "turned.jpg", _noise(8, 12, 3), exif=exif)
    _save(folder / "a png in truth.jpg", _noise(8, 8, 3), "PNG")
    (folder / "linked.png").symlink_to("rgba.png")
    # The length of the only strip is said to be two gigabytes, and not needed.
    (folder / "long strip.tif").write_bytes(_tiff(279, 4, 1, 2**31))
    return sorted(path.name for path in folder.iterdir())


def _bad(folder: Path) -> list[str]:
    """Files with the names of images that are none, or are not to be decoded."""
    folder.mkdir(parents=True, exist_ok=True)
    _save(folder / "cut.png", _noise(20, 30, 3))
    _cut(folder / "cut.png")
    _save(folder / "cut.jpg", _noise(20, 30, 3))
    _cut(folder / "cut.jpg")
    _save(folder / "flipped.png", _noise(20, 30, 3))
    content = bytearray((folder / "flipped.png").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "flipped.png").write_bytes(content)
    (folder / "zero.png").touch()
    (folder / "page.png").write_text("<!doctype html><title>404</title>")
    (folder / "noise.webp").write_bytes(_noise(999).tobytes())
    _save(folder / "float.tiff", np.ones((4, 4), np.float32))
    (folder / "bomb.png").write_bytes(_png(30_000, 30_000))
    bomb = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, 30_000, 30_000,
                       1, 24, 0, 0, 0, 0, 0, 0)  # fmt: skip
    (folder / "bomb.bmp").write_bytes(bomb)
    # Within the limit of pixels, but most of them are not there.
    (folder / "hollow.png").write_bytes(_png(12_000, 12_000, rows=zlib.compress(b"0")))
    (folder / "text.png").write_bytes(_png(4, 4, _text_bomb()))
    profile = b"name\0\0" + zlib.compress(bytes(2**23), 9)
    (folder / "profile.png").write_bytes(_png(4, 4, _chunk(b"iCCP", profile)))
    (folder / "huge tag.tif").write_bytes(_tiff(273, 4, 2**31, 8))
    (folder / "wide.tif").write_bytes(_tiff(256, 4, 1, 2**31))
    (folder / "deep.tif").write_bytes(_tiff(277, 3, 1, 60_000))
    with open(folder / "sparse.webp", "wb") as file:
        file.write(b"RIFF\xf0\xff\xff\xffWEBPVP8X")
        file.truncate(2**30 + 1)  # Takes no room on the disk.
    # To open one of these would wait for ever, or read for ever.
    os.mkfifo(folder / "pipe.png")
    (folder / "zeros.png").symlink_to("/dev/zero")
    (folder / "circle.png").symlink_to("circle.png")
    (folder / "nowhere.png").symlink_to("nothing")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(folder)  # The name of a socket may have some hundred bytes.
        server.bind("socket.png")
        os.chdir(here)
    return sorted(path.name for path in folder.iterdir())


def _loaded(folder: Path, size=(16, 24), **options) -> sources.Dataset:
    name = f"folder:{folder}"
    return load({"name": name, "image_size": size, "test_fraction": 0.0, **options})


def _names(source: sources.Examples) -> list[str]:
    return sorted(source.origin(i) for i in range(len(source)))


def test_odd_files_are_read_and_bad_ones_left_out_in_bounded_memory(tmp_path):
    """Among them bombs of 900 million pixels, and a pipe that nobody writes to."""
    good, bad = _odd_but_good(tmp_path / "good"), _bad(tmp_path / "bad")
    start = time.monotonic()
    with pytest.warns(UserWarning) as caught, memory.grows_by_less_than(700):
        data = _loaded(tmp_path)
    assert time.monotonic() - start < 60
    (said,) = [str(w.message) for w in caught if "cannot be read" in str(w.message)]
    assert f"{len(bad)} of {len(bad) + len(good)} files cannot be read" in said
    assert _names(data.train) == [f"good/{name}" for name in good]
    assert data.shape == (16, 24, 3) and data.num_classes == 2
    for i in range(len(data.train)):
        image = data.train[i]["image"]
        assert image.shape == (16, 24, 3) and image.dtype == np.uint8
    with pytest.raises(ConfigError, match=f"{len(bad)} of {len(bad)} files cannot"):
        _loaded(tmp_path / "bad")


def test_large_images_are_decoded_one_at_a_time(tmp_path, monkeypatch):
    for i in range(4):
        _save(tmp_path / f"{i}.png", _noise(70, 80, 3, seed=i))
    at_once, most, flatten = [], [], sources.flatten

    def slow(image):
        at_once.append(image)
        time.sleep(0.05)
        most.append(len(at_once))
        at_once.pop()
        return flatten(image)

    monkeypatch.setattr(sources, "flatten", slow)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    _loaded(tmp_path)
    assert max(most) > 1
    most.clear()
    for name in ("LARGE_PIXELS", "LARGE_FILE_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(reader, name, 5000)
            _loaded(tmp_path)
        assert max(most) == 1


def test_no_program_is_started_for_a_file(tmp_path, monkeypatch):
    """Pillow gives PostScript to Ghostscript, whatever the name of the file."""
    canary, program = tmp_path / "canary", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {canary}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # Look for it again.
    (tmp_path / "images").mkdir()
    script = (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n"
    )
    (tmp_path / "images" / "a.png").write_bytes(script)
    with pytest.raises(ConfigError, match="1 of 1 files cannot be read"):
        _loaded(tmp_path / "images")
    assert not canary.exists()


def test_a_file_deleted_between_the_listing_and_the_reading_is_left_out(
    tmp_path, monkeypatch
):
    _good(tmp_path, 5)
    scan = reader._scan

    def late(files, size):
        (tmp_path / "002.png").unlink()
        scan(files, size)

    monkeypatch.setattr(reader, "_scan", late)
    with pytest.warns(UserWarning, match=r"1 of 5 files cannot be read: 002.png"):
        data = _loaded(tmp_path)
    assert _names(data.train) == ["000.png", "001.png", "003.png", "004.png"]


def test_one_image_fills_a_batch(tmp_path):
    _good(tmp_path, 1)
    data = _loaded(tmp_path, test_fraction=0.1)
    assert data.test is None and data.num_classes is None
    batch = next(batches(data.train, batch_size=8))
    assert batch["index"].tolist() == [0] * 8
    assert (batch["image"] == data.train[0]["image"]).all()


def test_many_classes_have_labels_in_order(tmp_path):
    """100,000 of them take half a minute; here it is that none are confused."""
    _good(tmp_path / "one", 1)
    for i in range(300):
        (tmp_path / "all" / f"{i:03d}").mkdir(parents=True)
        os.link(tmp_path / "one" / "000.png", tmp_path / "all" / f"{i:03d}" / "a.png")
    (tmp_path / "all" / "empty").mkdir()
    data = _loaded(tmp_path / "all")
    assert data.num_classes == 300 and len(data.class_names) == 300
    labels = {data.train.origin(i): int(data.train[i]["label"]) for i in range(300)}
    assert labels == {f"{i:03d}/a.png": i for i in range(300)}


@pytest.fixture
def on_demand(tmp_path, monkeypatch):
    """A folder of 40 images, 20 in each of two classes, that is not kept in memory."""
    monkeypatch.setattr(sources, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(sources, "PATIENCE", 0.0)
    for name in ("ant", "bee"):
        _good(tmp_path / name, 20)
    return tmp_path


def _break(folder: Path) -> set[str]:
    """Breaks four files in four ways."""
    (folder / "ant/003.png").unlink()
    _cut(folder / "ant/004.png")
    (folder / "bee/003.png").write_bytes(b"no image")
    (folder / "bee/004.png").unlink()
    os.mkfifo(folder / "bee/004.png")
    return {"ant/003.png", "ant/004.png", "bee/003.png", "bee/004.png"}


def test_what_breaks_in_training_gives_way_to_another_by_a_fixed_rule(on_demand):
    before = [_loaded(on_demand).train[i] for i in range(40)]
    first, second = _loaded(on_demand).train, _loaded(on_demand).train
    broken = _break(on_demand)
    with pytest.warns(UserWarning, match="cannot be read any more") as caught:
        after = [first[i] for i in range(40)]
        again = [first[i] for i in range(40)]
    for name in broken:  # Each is named once.
        assert sum(name in str(w.message) for w in caught) == 1
    assert first.skipped == 8
    for i in range(40):
        name, *instead = (
            first.origin(i).removesuffix(")").split(" (unreadable; for it ")
        )
        assert bool(instead) == (name in broken)
        (other,) = [j for j in range(40) if second.title(j) == (instead or [name])[0]]
        assert not {second.title(other)} & broken
        for example in (after[i], again[i]):
            np.testing.assert_array_equal(example["image"], before[other]["image"])
            assert example["label"] == before[other]["label"]

    # Resumed and shared among processes, batches hold the same.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = dict(batch_size=8, random_flip=True)
        whole = list(itertools.islice(batches(first, **options), 10))
        resumed = batches(second, **options)
        resumed.set_state({"next_index": 5})
        parts = [
            batches(second, **options, process_index=p, process_count=2) for p in (0, 1)
        ]
        for expected in whole:
            halves = [next(part) for part in parts]
            for name, values in expected.items():
                joined = np.concatenate([half[name] for half in halves])
                np.testing.assert_array_equal(joined, values)
        for expected in whole[5:]:
            np.testing.assert_array_equal(next(resumed)["image"], expected["image"])


def test_what_can_be_read_again_is_itself_again(on_demand):
    train = _loaded(on_demand).train
    path = on_demand / "ant/003.png"
    content, before = path.read_bytes(), train[3]["image"]
    path.write_bytes(b"")
    with pytest.warns(UserWarning, match=r"ant/003.png cannot be read any more"):
        assert (train[3]["image"] != before).any()
    assert "unreadable" in train.origin(3)
    path.write_bytes(content)
    np.testing.assert_array_equal(train[3]["image"], before)
    assert train.origin(3) == "ant/003.png" and train.skipped == 1


def test_another_size_in_its_place_is_not_taken(on_demand):
    train = _loaded(on_demand, size=None).train
    _save(on_demand / "ant/003.png", _noise(21, 30, 3))
    with pytest.warns(UserWarning, match=r"shape \(21, 30, 3\), expected \(20"):
        assert train[3]["image"].shape == (20, 30, 3)


def test_a_lost_class_is_replaced_from_all_the_others(on_demand, monkeypatch):
    """Not by its neighbour a hundred times. More than a few files are not all named."""
    monkeypatch.setattr(sources, "MAX_NAMED", 3)
    train = _loaded(on_demand).train
    shutil.rmtree(on_demand / "ant")
    with pytest.warns(UserWarning) as caught:
        found = [train[i]["image"].tobytes() for i in range(20)]
    assert len(set(found)) > 8
    said = [str(w.message) for w in caught]
    assert sum("cannot be read any more" in line for line in said) == 3
    assert sum("are only counted" in line for line in said) == 1
    assert train.skipped == 20


def test_a_bad_file_ends_the_run_if_it_is_to_fail(on_demand):
    train = _loaded(on_demand, on_bad_file="fail").train
    (on_demand / "ant/003.png").unlink()
    with pytest.raises(DataError, match=r"ant/003.png cannot be read any more \(File"):
        train[3]
    assert train[4] and train.skipped == 0


def test_storage_may_go_and_come_back(on_demand, monkeypatch):
    train = _loaded(on_demand).train
    before, away = train[3]["image"], on_demand.with_name("away")
    on_demand.rename(away)
    with pytest.raises(DataError, match=r"ant/003.png .* nor can 39 others: is the st"):
        train[3]
    monkeypatch.setattr(sources, "PATIENCE", 60.0)

    def come_back(seconds):
        away.rename(on_demand)

    monkeypatch.setattr(time, "sleep", come_back)
    np.testing.assert_array_equal(train[3]["image"], before)
    assert train.skipped == 0


def test_lost_data_costs_no_step(tmp_path, monkeypatch):
    """It goes while the run trains, then while it evaluates, and comes back."""
    monkeypatch.setattr(sources, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(sources, "PATIENCE", 0.0)
    images = tmp_path / "images"
    for split, count in (("train", 20), ("test", 9)):
        for i in range(count):
            _save(images / split / f"{i}.png", _noise(8, 8, seed=i))
    config = recipes.get("vae_digits")
    config.data.update(name=f"folder:{images}", batch_size=8, random_flip=True)
    config.data.num_threads = 0
    config.update(num_steps=12, log_every=1, sample_every=0, eval_every=6)
    config.checkpoint.every = 100
    assert loop.train(config, tmp_path / "whole")

    log, evaluate, lost = loop.Runner.log, loop.Runner.evaluate, []

    def lose(name: str) -> None:
        if name not in lost:
            lost.append(name)
            images.rename(tmp_path / "away")

    def log_and_lose(self, step, *args):
        log(self, step, *args)
        if step == 2:
            lose("training")

    def lose_and_evaluate(self, state, step):
        lose("evaluation")
        return evaluate(self, state, step)

    monkeypatch.setattr(loop.Runner, "log", log_and_lose)
    monkeypatch.setattr(loop.Runner, "evaluate", lose_and_evaluate)
    for steps in (range(2, 6), [6]):
        with pytest.raises(DataError, match="is the storage still there"):
            loop.train(config, tmp_path / "parts")
        assert runs.saved(tmp_path / "parts")[-1] in steps
        (tmp_path / "away").rename(images)
    assert loop.train(config, tmp_path / "parts")
    assert lost == ["training", "evaluation"]
    whole, parts = (runs.arrays(tmp_path / name) for name in ("whole", "parts"))
    assert not runs.different(whole, parts)


@pytest.fixture
def recipe(tmp_path) -> Path:
    """The recipe for folders, which finds this one too large for its memory."""
    path = tmp_path / "recipe.py"
    path.write_text(
        "from genjax.data import sources\n"
        "from configs.ddpm_folder import get_config\n"
        "sources.IN_MEMORY_BYTES, sources.PATIENCE = 0, 1\n"
    )
    return path


def test_a_run_whose_files_break_goes_on_and_ends_only_if_the_folder_is_lost(
    tmp_path, recipe
):
    """And goes on to its end when that is back; of bad files it leaves out all."""
    data, workdir = tmp_path / "data", tmp_path / "run"
    _good(data / "train", 40)
    good, bad = _odd_but_good(tmp_path / "good"), _bad(tmp_path / "bad")
    for path in [*(tmp_path / "good").iterdir(), *(tmp_path / "bad").iterdir()]:
        path.rename(data / "train" / path.name)
    count = 40 + len(good)
    _good(data / "test", 12)
    fields = dict(
        data__name=f"folder:{data}", data__image_size="(16,24)", eval_every=10,
        eval_examples=12, checkpoint__every=10**6,
    )  # fmt: skip
    command = runs.words(workdir, f"{recipe}:tiny", num_steps=10**6, **fields)
    process = runs.start(command)
    try:
        runs.wait_for(lambda: len(runs.logged(workdir)) > 3, process)
        (data / "train/003.png").unlink()
        _cut(data / "train/004.png")
        (data / "test/005.png").unlink()
        step = runs.logged(workdir)[-1]["step"]

        def seen() -> bool:
            last = runs.logged(workdir)[-1]
            return last.get("skipped_examples", 0) > 3 and last["step"] > step + 20

        runs.wait_for(seen, process)
        data.rename(tmp_path / "away")
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 1, said[-3000:]
    assert f"{len(bad)} of {count + len(bad) + 12} files cannot be read" in said
    for name in ("train/003.png", "train/004.png", "test/005.png"):
        assert said.count(f"{name} cannot be read any more (") >= 1
    assert "Traceback" not in said
    assert "error: " in said and "is the storage still there" in said
    last = runs.logged(workdir)[-1]["step"]
    assert runs.saved(workdir)[-1] == last
    assert f"The data cannot be read: step {last} is saved." in said

    (tmp_path / "away").rename(data)
    command = runs.words(workdir, f"{recipe}:tiny", num_steps=last + 5, **fields)
    code, said = runs.finish(command)
    assert code == 0, said
    assert f"Resuming {workdir} from step {last}" in said
    now = f"has {count - 2} examples to train on, where it had {count} when"
    assert now in said
    assert runs.saved(workdir)[-1] == last + 5


def test_processes_that_see_different_files_are_refused(tmp_path):
    """As many, but of other names: they would train on other examples than they say."""
    for name in ("here", "there"):
        _good(tmp_path / name, 9)
    (tmp_path / "there/008.png").rename(tmp_path / "there/009.png")
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    processes = []
    for i, name in enumerate(("here", "there")):
        command = runs.words(
            tmp_path / "run", RECIPE, data__image_size="(16,24)",
            data__name=f"folder:{tmp_path / name}",
        )  # fmt: skip
        flags = [f"--coordinator=localhost:{port}", "--num_processes=2"]
        processes.append(runs.start([*command, *flags, f"--process_id={i}"]))
    try:
        for process in processes:
            _, said = process.communicate(timeout=240)
            assert process.returncode == 1
            assert "error: the processes found different data in folder:" in said
            assert "8 and 1, 8 and 1 examples" in said
    finally:
        for process in processes:
            process.kill()
