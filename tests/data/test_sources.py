import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import tensorflow_datasets as tfds

import genjax
from genjax.config import ConfigError, base_config
from genjax.data import load, sources


def test_digits_are_those_of_scikit_learn():
    """Pixels 0..16 become 0..255; each class keeps every sixth digit for testing."""
    data, digits = load({"name": "digits"}), sklearn.datasets.load_digits()
    names = ("train", "test")
    image = np.concatenate([getattr(data, n).columns["image"] for n in names])
    label = np.concatenate([getattr(data, n).columns["label"] for n in names])
    assert image.dtype == np.uint8 and label.dtype == np.int32
    assert data.shape == image.shape[1:] == (8, 8, 1) and data.num_classes == 10
    assert (image.min(), image.max()) == (0, 255)

    def rows(levels, label):
        return sorted(map(tuple, np.column_stack([levels.reshape(-1, 64), label])))

    levels = image / (255 / 16)  # 1/16 is 15.9 grey levels: rounding loses nothing.
    assert np.abs(levels - np.rint(levels)).max() < 0.04
    found = rows(np.rint(levels).astype(int), label)
    assert found == rows(digits.data.astype(int), digits.target)
    expected = np.bincount(digits.target) // 6
    np.testing.assert_array_equal(np.bincount(data.test.columns["label"]), expected)


def test_the_base_config_loads_digits():
    data = load(base_config().data)
    assert (len(data.train), len(data.test), data.entry) == (1501, 296, "image")
    assert data.train[3]["image"].shape == data.shape
    assert data.train.origin(3) == "digits/train[3]"


def test_image_size_resizes_digits():
    data = load({"name": "digits", "image_size": (16, 12)})
    assert data.shape == data.train[0]["image"].shape == (16, 12, 1)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "usps"])
def test_tfds_examples_are_those_that_tfds_decodes(name, tfds_data_dir):
    data = load({"name": f"tfds:{name}", "data_dir": tfds_data_dir})
    expected = tfds.data_source(
        name, split="test", data_dir=tfds_data_dir, download=False
    )
    assert len(data.test) == len(expected)
    assert data.num_classes == 10 and len(data.class_names) == 10
    for i in np.random.RandomState(0).choice(len(expected), 200, replace=False):
        found, example = data.test[i], expected[int(i)]
        np.testing.assert_array_equal(found["image"], example["image"])
        assert found["image"].shape == data.shape and found["image"].dtype == np.uint8
        assert found["label"] == example["label"]
    assert data.test.columns["label"].dtype == np.int32


def test_alpha_is_laid_over_white(tfds_data_dir):
    """Pillow and the formula may round to either side: one grey level."""
    name = "noto_emoji"
    data = load({"name": f"tfds:{name}", "data_dir": tfds_data_dir})
    expected = tfds.data_source(
        name, split="test", data_dir=tfds_data_dir, download=False
    )
    assert data.shape == (32, 32, 3) and data.num_classes is None
    for i in range(100):
        rgba = expected[i]["image"].astype(float)
        alpha = rgba[..., 3:] / 255
        rgb = rgba[..., :3] * alpha + 255 * (1 - alpha)
        assert np.abs(data.test[i]["image"] - rgb).max() <= 1


def test_a_large_set_is_decoded_on_demand(tfds_data_dir, monkeypatch):
    options = {"name": "tfds:usps", "data_dir": tfds_data_dir, "image_size": 20}
    small = load(options)
    monkeypatch.setattr(sources, "IN_MEMORY_BYTES", 0)
    large = load(options)
    assert hasattr(small.test, "columns") and not hasattr(large.test, "columns")
    assert len(large.test) == len(small.test) and large.shape == (20, 20, 1)
    for i in (0, 1, 2006):
        np.testing.assert_array_equal(large.test[i]["image"], small.test[i]["image"])
        assert large.test[i]["label"] == small.test[i]["label"]
    assert large.test.origin(7) == "tfds:usps/test[7]"


def test_a_split_is_decoded_once_and_only_if_used():
    calls = []

    def make():
        calls.append(1)
        return {"label": np.arange(3)}

    source = sources.InMemory("x", 3, make)
    assert len(source) == 3 and not calls
    assert source[1]["label"] == 1 and source[2]["label"] == 2
    assert len(calls) == 1


def test_data_dir_defaults_to_the_variable_of_tfds(tfds_data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", tfds_data_dir)
    assert len(load({"name": "tfds:usps", "data_dir": None}).train) == 7291
    assert len(load({"name": "tfds:usps:1.0.0"}).train) == 7291


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digit", "must be digits, tfds:<name>.*got 'digit'; did you mean 'digits'"),
        ("digits:8", "must be digits"),
        ("tfds:", "must be digits"),
        ("", "must be digits"),
        (
            "tfds:mnist",
            "expected .*mnist.*found|python -m genjax.data.prepare mnist --data_dir=",
        ),
        ("tfds:kmnist", "tfds build kmnist --file_format=array_record --data_dir="),
        ("folder:/nowhere", "must be a folder of images"),
    ],
)
def test_what_cannot_be_found_is_named(name, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        load({"name": name, "data_dir": str(tmp_path)})


def test_a_misspelt_set_is_corrected(tfds_data_dir):
    with pytest.raises(ConfigError, match=r"usp was not found.*did you mean 'usps'"):
        load({"name": "tfds:usp", "data_dir": tfds_data_dir})
    with pytest.raises(ConfigError, match=r"usps/9.0.0/.*holds \['1.0.0'\]"):
        load({"name": "tfds:usps:9.0.0", "data_dir": tfds_data_dir})


@pytest.fixture
def usps_copy(tfds_data_dir, tmp_path):
    source = Path(tfds_data_dir, "usps", "1.0.0")
    copy = tmp_path / "usps" / "1.0.0"
    copy.mkdir(parents=True)
    for path in source.iterdir():
        shutil.copyfile(path, copy / path.name)
    return copy


def test_a_set_with_a_file_missing_is_refused(usps_copy):
    (usps_copy / "usps-test.array_record-00000-of-00001").unlink()
    with pytest.raises(ConfigError, match=r"incomplete: .*usps-test.* is missing"):
        load({"name": "tfds:usps", "data_dir": str(usps_copy.parents[1])})


def test_a_test_split_without_labels_gives_way_to_validation(usps_copy):
    """As ImageNet's: TFDS writes -1 for the labels that are held back."""
    from array_record.python import array_record_module as array_record
    from tensorflow_datasets.proto import tf_example_pb2

    info = json.loads((usps_copy / "dataset_info.json").read_text())
    (test,) = [s for s in info["splits"] if s["name"] == "test"]
    info["splits"].append({**test, "name": "validation"})
    info["splits"] = [
        {**s, "shardLengths": ["3"]} if s["name"] == "test" else s
        for s in info["splits"]
    ]
    (usps_copy / "dataset_info.json").write_text(json.dumps(info))
    file = "usps-{}.array_record-00000-of-00001"
    path = str(usps_copy / file.format("test"))
    shutil.copyfile(path, usps_copy / file.format("validation"))
    reader = array_record.ArrayRecordReader(path)
    records = reader.read([0, 1, 2])
    reader.close()
    writer = array_record.ArrayRecordWriter(path, "group_size:1")
    for record in records:
        example = tf_example_pb2.Example.FromString(record)
        example.features.feature["label"].int64_list.value[0] = -1
        writer.write(example.SerializeToString())
    writer.close()
    data = load({"name": "tfds:usps", "data_dir": str(usps_copy.parents[1])})
    assert data.test.origin(0) == "tfds:usps/validation[0]"
    assert data.test[0]["label"] >= 0


def test_a_set_that_needs_tensorflow_is_refused(usps_copy):
    path = usps_copy / "dataset_info.json"
    info = json.loads(path.read_text())
    info["fileFormat"] = "tfrecord"
    path.write_text(json.dumps(info))
    with pytest.raises(ConfigError, match=r"holds tfrecord files.*tfds build usps"):
        load({"name": "tfds:usps", "data_dir": str(usps_copy.parents[1])})


def test_a_set_without_images_is_refused(usps_copy):
    path = usps_copy / "features.json"
    path.write_text(
        path.read_text().replace('"image": {\n                "image"', "X")
    )
    path.write_text(
        path.read_text().replace("X", '"photo": {\n                "image"')
    )
    assert "photo" in path.read_text()
    with pytest.raises(
        ConfigError, match=r"image feature called 'image', found.*photo"
    ):
        load({"name": "tfds:usps", "data_dir": str(usps_copy.parents[1])})


@pytest.mark.parametrize(
    "size, shape", [((12,), (12, 12, 1)), ((None,), (8, 8, 1)), (12, (12, 12, 1))]
)
def test_image_size_may_be_one_number(size, shape):
    """The command line makes tuples of --config.data.image_size=12 and =None."""
    assert load({"name": "digits", "image_size": size}).shape == shape


@pytest.mark.parametrize("size", [0, (0,), (8, -1), (8.5, 8), (8, 8, 8)])
def test_an_impossible_image_size_is_refused(size):
    with pytest.raises(ConfigError, match="image_size must be"):
        load({"name": "digits", "image_size": size})


def _run(code):
    root = str(Path(genjax.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_importing_the_package_is_light():
    """The trainer's start waits for nothing that the run may not need."""
    heavy = ("jax", "grain", "PIL", "sklearn", "tensorflow_datasets")
    found = _run(
        "import sys, genjax.data as data; data.load({'name': 'digits'});"
        f"print(*(m for m in {heavy} if m in sys.modules))"
    )
    assert found == []


def test_tensorflow_is_never_imported(tfds_data_dir):
    """Where it can be found, as here by a finder that notes who would load it."""
    found = _run(f"""
import importlib.util, sys

loaded = []

class Fake:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            return importlib.util.spec_from_loader(name, self)
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        loaded.append(module.__name__)

sys.meta_path.insert(0, Fake())
from genjax.data import batches, load
source = load({{"name": "tfds:usps", "data_dir": {tfds_data_dir!r}}}).train
for _, batch in zip(range(3), batches(source, batch_size=8, random_flip=True)):
    print(len(batch["image"]))
print(*loaded)
import tensorflow
print(*loaded)  # The finder works.
""")
    assert found == ["8", "8", "8", "tensorflow"]
