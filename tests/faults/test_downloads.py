"""Archives that do not come as they should, and prepared sets that are damaged."""

import contextlib
import hashlib
import http.server
import json
import os
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import runs

from genjax.config import ConfigError
from genjax.data import batches, load, prepare, sources

CONTENT = b"\x1f\x8b" + bytes(range(256)) * 40  # As gzip's files begin.
PAGE = b"\n<!DOCTYPE html><html><body>Log in to use this network.</body></html>"


@contextlib.contextmanager
def serving(
    content: bytes,
    *,
    length: int | None = -1,
    status: int = 200,
    kind: str = "text/html",
) -> Iterator[prepare.Archive]:
    """An archive whose address answers so; of length -1 the true one is said."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if length is not None:
                size = len(content) if length == -1 else length
                self.send_header("Content-Length", str(size))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # The client may have enough.
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("localhost", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://localhost:{server.server_port}/file.gz"
        yield prepare.Archive(url, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
        server.shutdown()


LIES = {
    "a page": (
        dict(content=PAGE),
        f"sends {len(PAGE)} bytes of text/html, expected 10242",
    ),
    "a page as an archive": (
        dict(content=PAGE, length=None, kind="application/gzip"),
        "sends a page",
    ),
    "another length": (dict(content=CONTENT + b"more"), "sends 10246 bytes of"),
    "too much, of no length": (  # Given up after the first block.
        dict(content=CONTENT * 300, length=None),
        "found 262144 bytes with",
    ),
    "another content": (
        dict(content=CONTENT[::-1], kind="application/gzip"),
        "not the original file.gz",
    ),
    "nothing there": (dict(content=PAGE, status=404), "HTTP Error 404"),
    "an empty answer": (dict(content=b"", length=None), "ended after 0 of 10242 bytes"),
    "an end too early": (
        dict(content=CONTENT[:5000], length=len(CONTENT)),
        "ended after 5000 of 10242 bytes",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_not_the_archive_is_refused_and_not_kept(lie, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    options, words = LIES[lie]
    folder = tmp_path / "downloads"
    with serving(**options) as archive, pytest.raises(ConfigError) as error:
        prepare.download(archive, folder)
    # What was expected, from where, and where to put it by hand.
    for part in (words, archive.url, f"put it at {folder / 'file.gz'}", "--archives"):
        assert part in str(error.value)
    left = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "file.gz" not in left
    assert CONTENT.startswith(left.get("file.gz.part", b""))

    # The right file is then taken, be it from the address or put there by hand.
    with serving(CONTENT, kind="application/gzip") as archive:
        path = prepare.download(archive, folder)
    assert path.read_bytes() == CONTENT
    path.unlink()
    path.write_bytes(CONTENT)
    assert prepare.download(archive, folder) == path  # Nobody is asked any more.


def test_a_kept_archive_that_is_damaged_is_named(tmp_path):
    archive = prepare.Archive("http://localhost:1/file.gz", len(CONTENT), "0" * 64)
    (tmp_path / "file.gz").write_bytes(CONTENT[:-1])
    with pytest.raises(ConfigError, match=r"not the original.*Remove it, and run"):
        prepare.download(archive, tmp_path)


def test_no_network_leaves_nothing_and_says_where_the_files_belong(tmp_path):
    """By the command, for a set whose address nobody answers."""
    code, said = runs.finish(
        [
            sys.executable,
            "-m",
            "genjax.data.prepare",
            "mnist",
            f"--data_dir={tmp_path}",
        ],
        env={**os.environ, "https_proxy": "http://localhost:1", "no_proxy": ""},
    )
    assert code == 1 and "Traceback" not in said
    archive = prepare.ARCHIVES["mnist"][0]
    by_hand = tmp_path / "downloads" / "mnist" / archive.name
    assert f"error: cannot download {archive.url}" in said
    assert f"put it at {by_hand}" in said
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.fixture
def usps(tfds_data_dir, tmp_path) -> Path:
    """A copy of a prepared set."""
    copy = tmp_path / "usps" / "1.0.0"
    copy.mkdir(parents=True)
    for path in Path(tfds_data_dir, "usps", "1.0.0").iterdir():
        shutil.copyfile(path, copy / path.name)
    return copy


def _open(folder: Path) -> sources.Dataset:
    return load({"name": "tfds:usps", "data_dir": str(folder.parents[1])})


def test_a_set_that_is_there_needs_no_network(usps, monkeypatch):
    asked = []

    def refuse(*arguments, **_):
        asked.append(arguments)
        raise OSError("the network was asked for")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    data = _open(usps)
    assert next(batches(data.train, batch_size=8))["image"].shape == (8, 16, 16, 1)
    assert not asked
    with pytest.raises(OSError, match="asked for"):
        socket.create_connection(("localhost", 1))


def _edit(name: str, key: str, value: object):
    def edit(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text())
        inner = content
        *way, last = key.split("/")
        for step in way:
            inner = inner[int(step) if isinstance(inner, list) else step]
        inner[last] = value
        path.write_text(json.dumps(content))

    return edit


def _write(name: str, content: str):
    return lambda folder: (folder / name).write_text(content)


def _truncate(name: str, size: int):
    return lambda folder: os.truncate(folder / name, size)


TRAIN = "usps-train.array_record-00000-of-00001"
IMAGE, LABEL = "featuresDict/features/image", "featuresDict/features/label"
DAMAGE = {
    "a file cut off": (_truncate(TRAIN, 2_000_000), f"expected 7291 records .*{TRAIN}"),
    "an empty file": (_truncate(TRAIN, 0), f"expected 7291 records in .*{TRAIN}"),
    "a page": (_write(TRAIN, "<html>" * 30_000), f"expected 7291 records in .*{TRAIN}"),
    "a test file cut off": (
        _truncate(TRAIN.replace("train", "test"), 600_000),
        "expected 2007 records in .*usps-test",
    ),
    "a terabyte said": (
        _edit("dataset_info.json", "splits/0/shardLengths", ["99999999999"]),
        "expected 99999999999 records in .*found 7291",
    ),
    "less than nothing said": (
        _edit("dataset_info.json", "splits/0/shardLengths", ["-5"]),
        "expected -5 records in .*found 7291",
    ),
    "half of the metadata": (
        _truncate("dataset_info.json", 100),
        "metadata in .*cannot",
    ),
    "no metadata": (_write("dataset_info.json", ""), "metadata in .*cannot be read"),
    "a list for metadata": (_write("dataset_info.json", "[]"), "metadata in .*cannot"),
    "an unknown format": (
        _edit("dataset_info.json", "fileFormat", "nonsense"),
        "metadata in .*cannot be read",
    ),
    "half of the features": (_truncate("features.json", 99), "metadata in .*cannot be"),
    "no features": (
        lambda folder: (folder / "features.json").unlink(),
        "metadata in .*cannot be read .*features.json",
    ),
    "names of a terabyte": (
        _edit("features.json", f"{LABEL}/classLabel/numClasses", "99999999999"),
        "says 99999999999 classes, expected 1000000 at most",
    ),
    "images of a terabyte": (
        _edit(
            "features.json",
            f"{IMAGE}/image/shape/dimensions",
            ["999999", "999999", "1"],
        ),
        r"damaged .*shape \(16, 16, 1\), expected \(999999, 999999, 1\)",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_set_is_refused_at_the_start(damage, usps):
    """With the file, and how to prepare the set again."""
    change, words = DAMAGE[damage]
    change(usps)
    with pytest.raises(ConfigError, match=rf"(?s)tfds:usps.*{words}") as error:
        _open(usps)
    assert "tfds build usps --file_format=array_record" in str(error.value)


def test_features_import_no_module(usps, tmp_path, monkeypatch):
    """TFDS imports the module of any class that the file names."""
    canary = tmp_path / "canary"
    (tmp_path / "hostile.py").write_text(f"open({str(canary)!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    _edit("features.json", f"{IMAGE}/pythonClassName", "hostile.Image")(usps)
    with pytest.raises(ConfigError, match=r"names the class 'hostile.Image', whose"):
        _open(usps)
    assert not canary.exists()


def test_a_label_that_there_is_not_is_refused(usps):
    _edit("features.json", f"{LABEL}/classLabel/numClasses", "9")(usps)
    with pytest.raises(ConfigError, match=r"damaged .*label 9 of 9 classes"):
        _ = _open(usps).train.columns


def _flip(folder: Path) -> None:
    """One bit of a record near the middle of the training split."""
    path = folder / TRAIN
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_flipped_byte_is_found_by_its_sum(usps, monkeypatch):
    """Of a set kept in memory when it is read; of a large one by the example."""
    before = _open(usps).train.columns
    _flip(usps)
    data = _open(usps)
    with pytest.raises(ConfigError, match=r"train in .*damaged .*hash mismatch.*tfds"):
        next(batches(data.train, batch_size=8))

    monkeypatch.setattr(sources, "IN_MEMORY_BYTES", 0)
    train = _open(usps).train
    with pytest.warns(UserWarning, match=r"usps/train\[\d+\] cannot be read any more"):
        found = [train[i] for i in range(len(train))]
    (bad,) = [
        i
        for i, example in enumerate(found)
        if (example["image"] != before["image"][i]).any()
    ]
    assert train.skipped == 1 and "for it tfds:usps/train[" in train.origin(bad)
    assert any((found[bad]["image"] == image).all() for image in before["image"])
    labels = np.array([example["label"] for example in found])
    assert np.sum(labels != before["label"]) <= 1


@pytest.mark.parametrize("content", ["", "[]", "<html>"])
def test_preparing_over_broken_metadata_says_what_to_remove(content, tmp_path):
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(content)
    (folder / "features.json").write_text(content)
    with pytest.raises(ConfigError, match=r"(?s)mnist.* remove the folder and run the"):
        prepare.prepare("mnist", str(tmp_path))
