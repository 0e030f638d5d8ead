import gzip
import hashlib
import http.server
import importlib.resources
import io
import struct
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from genjax.config import ConfigError
from genjax.data import load
from genjax.data.prepare import ARCHIVES, Archive, download, main, prepare


def _idx(array):
    """The format as its authors describe it: magic number, sizes, bytes."""
    header = struct.pack(">HBB", 0, 8, array.ndim)
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + sizes + array.tobytes())


def _archive(folder, name, content):
    (folder / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return Archive(f"https://example.org/{name}", len(content), digest)


def _pictures(count, *shape):
    return np.random.RandomState(count).randint(
        256, size=(count, *shape), dtype=np.uint8
    )


def _mnist_archives(folder):
    files = {}
    for split, prefix, count in (("train", "train", 30), ("test", "t10k", 12)):
        images = _pictures(count, 28, 28)
        labels = np.arange(count, dtype=np.uint8) % 10
        files[split] = images, labels
        files[f"{prefix}-images-idx3-ubyte.gz"] = _idx(images)
        files[f"{prefix}-labels-idx1-ubyte.gz"] = _idx(labels)
    names = [archive.name for archive in ARCHIVES["mnist"]]
    return files, tuple(_archive(folder, name, files[name]) for name in names)


def _cifar_archives(folder):
    files = {}
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        images = _pictures(7, 32, 32, 3) + np.uint8(len(files))
        labels = np.arange(7, dtype=np.uint8)
        planes = images.transpose(0, 3, 1, 2).reshape(7, -1)
        files[name] = images, np.column_stack([labels, planes]).tobytes()
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        classes = "\n".join(f"class {k}" for k in range(10)) + "\n\n"
        members = {f"{n}.bin": data for n, (_, data) in files.items()}
        for name, data in {**members, "batches.meta.txt": classes.encode()}.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    name = ARCHIVES["cifar10"][0].name
    return files, (_archive(folder, name, content.getvalue()),)


def _order(split, count):
    """TFDS orders records by the MD5 of the split's name and the record's key."""
    return sorted(
        range(count), key=lambda i: hashlib.md5(f"{split}{i}".encode()).digest()
    )


def test_the_archives_are_those_of_tfds():
    folder = importlib.resources.files("tensorflow_datasets") / "url_checksums"
    for name, archives in ARCHIVES.items():
        lines = (folder / f"{name}.txt").read_text().splitlines()
        expected = {tuple(line.split("\t")[:3]) for line in lines}
        assert {(a.url, str(a.size), a.sha256) for a in archives} == expected


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_prepared_mnist_is_read_by_tfds_in_its_own_order(name, tmp_path):
    files, archives = _mnist_archives(tmp_path)
    root = tmp_path / "data"
    out = prepare(
        name, str(root), archives_dir=str(tmp_path), archives={name: archives}
    )
    assert out == root / name / "3.0.1"
    for split, count in (("train", 30), ("test", 12)):
        assert (out / f"{name}-{split}.array_record-00000-of-00001").is_file()
        source = tfds.data_source(name, split=split, data_dir=root, download=False)
        assert len(source) == count
        images, labels = files[split]
        for record, i in zip(source, _order(split, count), strict=True):
            np.testing.assert_array_equal(record["image"], images[i][..., None])
            assert record["label"] == labels[i]
    data = load({"name": f"tfds:{name}", "data_dir": str(root)})
    assert data.shape == (28, 28, 1) and len(data.train) == 30
    assert "tensorflow" not in sys.modules


def test_prepared_cifar10_is_read_by_tfds_in_its_own_order(tmp_path):
    files, archives = _cifar_archives(tmp_path)
    root = tmp_path / "data"
    prepare(
        "cifar10", str(root), archives_dir=str(tmp_path), archives={"cifar10": archives}
    )
    train = np.concatenate([files[f"data_batch_{i}"][0] for i in range(1, 6)])
    for split, images in (("train", train), ("test", files["test_batch"][0])):
        source = tfds.data_source("cifar10", split=split, data_dir=root, download=False)
        for record, i in zip(source, _order(split, len(images)), strict=True):
            assert record["id"] == f"{split}_{i:05d}".encode()
            np.testing.assert_array_equal(record["image"], images[i])
            assert record["label"] == i % 7
    data = load({"name": "tfds:cifar10", "data_dir": str(root)})
    assert data.class_names == tuple(f"class {k}" for k in range(10))


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_features_are_written_as_tfds_does(name, tmp_path, tfds_data_dir):
    make = _mnist_archives if name == "mnist" else _cifar_archives
    _, archives = make(tmp_path)
    out = prepare(
        name, str(tmp_path), archives_dir=str(tmp_path), archives={name: archives}
    )
    (expected,) = Path(tfds_data_dir, name).glob("*/features.json")
    assert out.name == expected.parent.name
    assert (out / "features.json").read_text() == expected.read_text()


def test_a_prepared_set_is_left_alone(tmp_path, capsys):
    _, archives = _mnist_archives(tmp_path)
    options = dict(archives={"mnist": archives})
    out = prepare("mnist", str(tmp_path), archives_dir=str(tmp_path), **options)
    before = {p: p.stat().st_mtime_ns for p in out.iterdir()}
    # Neither archives nor the network are needed now.
    assert prepare("mnist", str(tmp_path), archives_dir="nowhere", **options) == out
    assert {p: p.stat().st_mtime_ns for p in out.iterdir()} == before
    assert "already prepared" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["dataset_info.json", "mnist-test.array_record-00000-of-00001"]
)
def test_a_set_prepared_in_part_is_not_called_prepared(name, tmp_path):
    _, archives = _mnist_archives(tmp_path)
    options = dict(archives_dir=str(tmp_path), archives={"mnist": archives})
    out = prepare("mnist", str(tmp_path), **options)
    (out / name).unlink()
    with pytest.raises(ConfigError, match=f"is incomplete, without .*{name}: remove"):
        prepare("mnist", str(tmp_path), **options)


def test_a_wrong_archive_is_refused_and_nothing_written(tmp_path):
    _, archives = _mnist_archives(tmp_path)
    path = tmp_path / archives[2].name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        prepare(
            "mnist",
            str(tmp_path / "data"),
            archives_dir=str(tmp_path),
            archives={"mnist": archives},
        )
    found = hashlib.sha256(content).hexdigest()
    for words in (archives[2].name, archives[2].sha256, found, archives[2].url):
        assert words in str(error.value)
    assert not (tmp_path / "data" / "mnist").exists()


def test_an_interrupted_preparation_leaves_nothing_behind(tmp_path):
    """Image 20 of 30 is missing, which shows only after writing has begun."""
    files, archives = _mnist_archives(tmp_path)
    cut = _archive(tmp_path, archives[0].name, _idx(files["train"][0][:20]))
    root = tmp_path / "data"
    with pytest.raises(ConfigError, match="20 images and 30 labels"):
        prepare(
            "mnist",
            str(root),
            archives_dir=str(tmp_path),
            archives={"mnist": (cut, *archives[1:])},
        )
    assert not list(root.glob("mnist/3*"))
    with pytest.raises(ConfigError, match="was not found"):
        load({"name": "tfds:mnist", "data_dir": str(root)})


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(SystemExit) as error:
        main(["cifar10", f"--data_dir={tmp_path}", f"--archives={tmp_path}"])
    assert "expected cifar-10-binary.tar.gz in" in str(error.value)
    assert ARCHIVES["cifar10"][0].url in str(error.value)


def test_an_unknown_set_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"got 'kmnist'.*tfds build kmnist"):
        main(["kmnist", f"--data_dir={tmp_path}"])


class _Server(http.server.BaseHTTPRequestHandler):
    content = bytes(range(256)) * 40
    ranges = True

    def do_GET(self):
        start = 0
        if self.ranges and "Range" in self.headers:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        # Before the last byte: the client may look as soon as it has that.
        self.server.sent.append(len(self.content) - start)
        self.wfile.write(self.content[start:])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with http.server.ThreadingHTTPServer(("localhost", 0), _Server) as server:
        server.sent = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def _served(server, sha256=None):
    size = len(_Server.content)
    digest = sha256 or hashlib.sha256(_Server.content).hexdigest()
    return Archive(f"http://localhost:{server.server_port}/file.gz", size, digest)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_continues_where_it_stopped(server, tmp_path, ranges, monkeypatch):
    monkeypatch.setattr(_Server, "ranges", ranges)
    (tmp_path / "file.gz.part").write_bytes(_Server.content[:4000])
    path = download(_served(server), tmp_path)
    assert path.read_bytes() == _Server.content
    assert server.sent == [10240 - 4000 if ranges else 10240]
    assert download(_served(server), tmp_path) == path and len(server.sent) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["file.gz"]


def test_a_wrong_download_is_refused_and_removed(server, tmp_path):
    with pytest.raises(ConfigError, match=r"not the original file.gz"):
        download(_served(server, sha256="0" * 64), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_download_without_a_network_says_what_to_do(tmp_path):
    archive = Archive("http://localhost:1/file.gz", 1, "")
    with pytest.raises(ConfigError, match=r"cannot download http.*--archives"):
        download(archive, tmp_path)


def test_a_set_prepared_in_another_format_is_not_taken_for_ready(tmp_path):
    _, archives = _mnist_archives(tmp_path)
    options = dict(archives_dir=str(tmp_path), archives={"mnist": archives})
    out = prepare("mnist", str(tmp_path), **options)
    info = out / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(ConfigError, match="already prepared as tfrecord"):
        prepare("mnist", str(tmp_path), **options)
