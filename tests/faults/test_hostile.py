"""Checkpoints, weights and data that somebody made to do harm: nothing in them runs.

Each is refused with one clear error, in less than a second, and takes no memory.
"""

import importlib
import io
import json
import os
import pickle
import resource
import shutil
import struct
import sys
import time
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
import runs
import tensorstore
from safetensors.numpy import save_file

from genjax import data, untrusted
from genjax.config import ConfigError
from genjax.metrics import features, inception, lpips
from genjax.train import checkpoints, inspection, loop, quality, tables, workdir

ARRAY = "params.decoder.mlp.dense_0.bias"


class Canary:
    """Unpickling it makes the file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def canary(tmp_path):
    """A path, and the pickle that would make a file there."""
    path = tmp_path / "canary"
    found = pickle.dumps(Canary(path))
    pickle.loads(found).close()
    assert path.exists()  # It does sing.
    path.unlink()
    return path, found


@pytest.fixture(scope="module")
def recipe():
    """Of the tiny run."""
    config = importlib.import_module("configs.vae_digits").get_config("tiny")
    config.update(sample_every=0, eval_every=0)
    config.optimizers.vae.schedule = "constant"
    return config


@pytest.fixture(scope="module")
def honest(recipe, tmp_path_factory):
    """A finished tiny run of two steps, without fingerprints.

    Those would be found not to fit; who means harm leaves them out, or makes his own.
    """
    path = tmp_path_factory.mktemp("runs") / "honest"
    assert loop.train(recipe, path)
    step = path / "checkpoints" / "2"
    shutil.rmtree(step / "sums")
    about = json.loads((step / "_CHECKPOINT_METADATA").read_text())
    del about["item_handlers"]["sums"]
    (step / "_CHECKPOINT_METADATA").write_text(json.dumps(about))
    return path


@pytest.fixture
def run(honest, tmp_path):
    """A copy of it, to be made hostile."""
    return Path(shutil.copytree(honest, tmp_path / "run"))


@pytest.fixture
def step(run):
    """Its checkpoint."""
    return run / "checkpoints" / "2"


def refused(words: str | None, fn, *args, error=ConfigError) -> None:
    """fn(*args) raises it within a second of work, and with less than 200 MiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()  # Not the clock: other tests may keep the cores.
    with pytest.raises(error, match=words):
        fn(*args)
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 2**10


def store(item: Path) -> tensorstore.KvStore:
    spec = {"driver": "ocdbt", "base": f"file://{item}/"}
    return tensorstore.KvStore.open(spec).result()


def declare(item: Path, array: str, **fields) -> None:
    """Changes what an array's metadata say."""
    key = f"{array}/.zarray"
    found = json.loads(store(item).read(key).result().value)
    store(item).write(key, json.dumps({**found, **fields}).encode()).result()


def fill(item: Path, array: str, value: float) -> None:
    """Writes one number everywhere."""
    spec = {"driver": "ocdbt", "base": f"file://{item}/", "path": f"{array}/"}
    opened = tensorstore.open({"driver": "zarr", "kvstore": spec}).result()
    opened[...] = np.float32(value)


def rewrite(path: Path, change) -> None:
    """Changes a JSON."""
    values = json.loads(path.read_text())
    path.write_text(json.dumps(change(values) or values))


def test_the_honest_run_loads(honest):
    """So that what is refused below is refused for what was done to it."""
    assert checkpoints.load_weights(honest).step == 2
    assert tables.Model.load(honest).step == 2


@pytest.mark.parametrize(
    "fields", [{"shape": [10**12]}, {"shape": [10**12], "chunks": [10**12]},
    {"chunks": [10**12]}],
)  # fmt: skip
def test_shapes_of_terabytes_are_refused(run, step, fields):
    declare(step / "weights", ARRAY, **fields)
    refused("declares arrays of 4,000,", checkpoints.load_weights, run)


def test_a_part_that_expands_is_held_to_what_it_declares(run, step):
    """A zstd frame of 8,192 blocks of one byte repeated: 32 KiB that are 1 GiB."""
    size = 2**17
    block = (size << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    frame = bytes.fromhex("28b52ffd") + b"\x00\x38" + block * 8191
    frame += (size << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"
    store(step / "weights").write(f"{ARRAY}/0", frame).result()
    refused("is damaged", checkpoints.load_weights, run)


def test_arrays_of_objects_and_of_text_are_refused(run, step, canary):
    path, pickled = canary
    store(step / "weights").write(f"{ARRAY}/0", pickled).result()
    refused("is damaged", checkpoints.load_weights, run)
    declare(step / "weights", ARRAY, dtype="|O")
    refused("is damaged", checkpoints.load_weights, run)
    assert not path.exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(run, step, value):
    fill(step / "weights", ARRAY, value)
    words = r"not finite.*in 1 of 8 arrays: \['params'\]\['decoder'\].*\['bias'\]"
    refused(words, tables.Model.load, run)


def test_names_that_are_paths_are_refused(run, step):
    """Beside an OCDBT, Orbax would join them to the folder."""
    text = (step / "weights" / "_METADATA").read_text()
    (step / "weights" / "_METADATA").write_text(text.replace("decoder", "../../evil"))
    refused("is damaged", checkpoints.load_weights, run)  # No such array.
    leaf = jax.ShapeDtypeStruct((2,), np.float32)
    with pytest.raises(ConfigError, match="must be a name, and is a path"):
        inspection.check_arrays({"params": {"../../evil": leaf}}, step / "weights")
    (step / "weights" / "_METADATA").write_text(text)
    (step / "weights" / "manifest.ocdbt").unlink()
    refused("must have a manifest", checkpoints.load_weights, run)


@pytest.mark.parametrize("name", ["config/metadata", "weights/_METADATA", "weights/x"])
def test_links_pipes_and_devices_are_refused(run, step, name):
    """A pipe that nobody writes to would be waited for; /dev/zero has no end."""
    for make in (
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("/etc/passwd"),
        os.mkfifo,
    ):
        (step / name).unlink(missing_ok=True)
        make(step / name)
        refused("is a link or a device", checkpoints.load_weights, run)


@pytest.mark.parametrize(
    "name", ["_CHECKPOINT_METADATA", "config/metadata", "weights/_METADATA",
    "weights/_sharding", "weights/array_metadatas/process_0"],
)  # fmt: skip
def test_a_json_without_end_is_refused(run, step, name):
    """Ten thousand million bytes, which the disk need not hold."""
    with open(step / name, "ab") as file:
        file.truncate(10**10)
    refused("are read of it", checkpoints.load_weights, run)


@pytest.mark.parametrize("name", ["config/metadata", "weights/_METADATA"])
def test_a_json_of_many_brackets_is_refused(run, step, name):
    (step / name).write_text("[" * 10**6)
    refused("cannot be read: RecursionError", checkpoints.load_weights, run)


def test_code_beside_a_checkpoint_does_not_run(run, step, canary, recipe):
    """Modules of every name that could be imported, pickles in the place of files."""
    path, pickled = canary
    code = f"open({str(path)!r}, 'w')"
    for folder in (run, run / "checkpoints", step, step / "config"):
        for name in ("config", "json", "sitecustomize", "__init__", "genjax", "vae"):
            (folder / f"{name}.py").write_text(code)
        (folder / "weights.pkl").write_bytes(pickled)
    (run / "evaluation.json").write_bytes(pickled)
    command = [sys.executable, str(runs.ROOT / "sample.py"), f"--workdir={run}"]
    done, said = runs.finish([*command, "--num=1", f"--out={run / 'out'}"])
    assert done == 0, said
    (step / "config" / "metadata").write_bytes(pickled)
    (run / "config.json").write_bytes(pickled)
    refused("is damaged", checkpoints.load_weights, run)
    refused("cannot be read", workdir.claim, run, recipe)
    (run / "config.json").write_text("[]")
    refused("cannot be read", workdir.claim, run, recipe)
    assert not path.exists()


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(method="os"), "no method 'os'"),
        (dict(method="../../evil"), "no method '../../evil'"),
        (dict(method="vae"), "no method 'vae'"),
        (dict(method=["vae.vae"]), "config.method must be a text"),
        (dict(model={"__import__('os').system('touch x')": 1}), r"field|read"),
        (dict(model={"latent_features": 10**12}), "config"),
        (dict(model={"py/object": "os.system"}), "has no field"),
        (dict(num_samples="__import__('os')"), "num_samples must be a whole number"),
        (dict(data={"shape": [10**6, 10**6, 3]}), "must describe at most"),
        (dict(data={"shape": "x"}), "must be a tuple"),
        (dict(optimizers=5), "must be a dict"),
        (dict(evil=5), "config has no field 'evil'"),
    ],
)
def test_a_hostile_config_in_a_checkpoint_is_refused(run, step, change, words):
    def change_all(values):
        for name, value in change.items():
            both = name != "model" and isinstance(value, dict)
            values[name] = {**values[name], **value} if both else value

    rewrite(step / "config" / "metadata", change_all)
    refused(words, tables.Model.load, run)


@pytest.mark.parametrize("text", ["5", "[]", '"x"', "null", '{"model": {"a.b": 1}}'])
def test_what_is_no_config_is_refused(run, step, text):
    (step / "config" / "metadata").write_text(text)
    refused(None, tables.Model.load, run)


def test_hostile_measurements_are_refused(run, step):
    """Where the best checkpoint is looked for."""
    rewrite(
        step / "config" / "metadata",
        lambda values: values["checkpoint"].update(best_metric="loss"),
    )
    for text in ('{"loss": "1"}', "[1]", "{", '{"loss": [[]]}'):
        folder = step / "metrics"
        folder.mkdir(exist_ok=True)
        (folder / "metrics").write_text(text)
        refused(None, checkpoints.load_weights, run, "best")


def test_resuming_refuses_what_is_hostile(run, step, recipe, canary):
    recipe = recipe.copy_and_resolve_references()
    recipe.num_steps = 4
    array = next(
        key.decode().removesuffix("/.zarray")
        for key in store(step / "training").list().result()
        if key.endswith(b"bias/.zarray")
    )
    declare(step / "training", array, shape=[10**12])
    with pytest.raises(ConfigError, match="declares arrays of 4,000,"):
        loop.train(recipe, run)
    for position in ('{"phase": 7, "data": {}}', '{"phase": -1, "data": {}}', "[]"):
        (step / "position" / "metadata").write_text(position)
        with pytest.raises(ConfigError, match=r"phase|is damaged|cannot be read"):
            loop.train(recipe, run)
    (step / "evil").symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="is a link or a device"):
        loop.train(recipe, run)


def test_a_run_to_start_from_can_be_hostile(run, step, recipe, tmp_path):
    recipe = recipe.copy_and_resolve_references()
    recipe.init_from = ({"workdir": str(run)},)
    fill(step / "weights", ARRAY, np.nan)
    with pytest.raises(ConfigError, match="not finite"):
        loop.train(recipe, tmp_path / "student")


def test_sampling_refuses_weights_that_are_not_finite(run, step, tmp_path):
    """The command: one line, and nothing is drawn."""
    fill(step / "weights", ARRAY, np.nan)
    command = [sys.executable, "sample.py", f"--workdir={run}", f"--out={tmp_path}/out"]
    code, said = runs.finish(command)
    last = said.splitlines()[-1]
    assert code == 1 and "Traceback" not in said
    assert last.startswith("error:") and "dense_0" in last and "not finite" in last
    assert not list((tmp_path / "out").iterdir())


def safetensors(header: dict | bytes, body: bytes = b"", length: int | None = None):
    """The bytes of a file with such a header, which may lie of its length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def entry(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


SAFETENSORS = {
    "overlapping": safetensors(
        {"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, b"0" * 12
    ),
    "oversized header": safetensors(b"{}", length=2**63),
    "header of terabytes": safetensors(b"{}", length=10**12),
    "terabytes": safetensors({"a": entry([10**12], 0, 4 * 10**12)}, b"0" * 64),
    "shape and span": safetensors({"a": entry([10**12], 0, 64)}, b"0" * 64),
    "overflow": safetensors({"a": entry([2**40, 2**40], 0, 64)}, b"0" * 64),
    "backwards": safetensors({"a": entry([2], 8, 0)}, b"0" * 8),
    "hole": safetensors({"a": entry([1], 4, 8)}, b"0" * 8),
    "type": safetensors({"a": entry([8], 0, 8, "F8_E4M3")}, b"0" * 8),
    "nan": safetensors({"a": entry([1], 0, 4)}, struct.pack("<f", np.nan)),
    "brackets": safetensors(b"[" * 10**6),
    "empty": b"",
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_hostile_safetensors_are_refused(tmp_path, name):
    path = tmp_path / "x.safetensors"
    path.write_bytes(SAFETENSORS[name])
    refused("x.safetensors", untrusted.read_safetensors, path, error=ValueError)
    for load in (inception.load, lpips.load):
        refused("x.safetensors", load, path, error=ValueError)


def test_names_in_safetensors_are_no_paths(tmp_path):
    """They are looked up, and no file is made of one."""
    path = tmp_path / "in" / "x.safetensors"
    path.parent.mkdir()
    save_file({"../../evil": np.zeros(3, np.float32)}, path)
    before = sorted(tmp_path.rglob("*"))
    for load in (inception.load, lpips.load):
        with pytest.raises(ValueError, match="expected"):
            load(path)  # To know its own names it traces the network, for seconds.
    assert sorted(tmp_path.rglob("*")) == before


def pth(pickled: bytes) -> bytes:
    """As torch.save writes: a zip with the pickle in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def test_pickles_in_the_place_of_weights_never_run(tmp_path, canary):
    """Under the names that are looked for, and by the commands that convert."""
    path, pickled = canary
    for text in (pickled, pth(pickled)):
        weights = tmp_path / "x.safetensors"
        weights.write_bytes(text)
        for load in (inception.load, lpips.load, untrusted.read_safetensors):
            refused("no .safetensors", load, weights, error=ValueError)
        torchs = tmp_path / "x.pth"
        torchs.write_bytes(text)
        refused("SHA-256", inception.convert, torchs, error=ValueError)
        pair = torchs, torchs, "alex", tmp_path / "out"
        refused("SHA-256", lpips.convert, *pair, error=ValueError)
    assert not path.exists() and not (tmp_path / "out").exists()


def npy(header: str) -> bytes:
    """A .npy of that header, and a few bytes."""
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + b"0" * 64


def test_hostile_statistics_are_made_again(tmp_path, canary):
    """In the cache of statistics of real images, which is an .npz."""
    path, pickled = canary
    kept = tmp_path / "x.npz"
    good = {
        "count": 5, "mean": np.zeros(3), "scatter": np.eye(3),
        "features": np.zeros((5, 3), np.float32),
    }  # fmt: skip
    np.savez(kept, **good)
    assert quality._cached(kept, "key").moments.count == 5
    hostile = [
        {**good, "mean": np.array([Canary(path)] * 3, object)},
        {**good, "scatter": np.eye(4)},
        {**good, "mean": np.array([0, np.nan, 0])},
        {**good, "count": 10**12},
        {**good, "features": np.zeros((6, 3), np.float32)},
        {**good, "labels": np.zeros(4, int)},
        {**good, "labels": np.array("x")},
        {"count": 5},
    ]
    for arrays in hostile:
        np.savez(kept, allow_pickle=True, **arrays)
        assert quality._cached(kept, "key") is None
    np.savez_compressed(kept, **{**good, "mean": np.zeros(10**7)})
    refused("no .npz of arrays", untrusted.read_npz, kept, error=ValueError)
    for header in (
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (9, -9)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
        f"{{'descr': open({str(path)!r}, 'w'), 'shape': ()}}",
    ):
        with zipfile.ZipFile(kept, "w") as archive:
            archive.writestr("mean.npy", npy(header))
        words = "declares" if "1000000000000" in header or "|O" in header else ".npz"
        refused(words, untrusted.read_npz, kept, error=ValueError)
        assert quality._cached(kept, "key") is None
    for text in (pickled, npy("{}"), b"PK\x03\x04", b""):
        kept.write_bytes(text)
        assert quality._cached(kept, "key") is None
    kept.unlink()
    os.mkfifo(kept)
    refused("no .npz of arrays", untrusted.read_npz, kept, error=ValueError)
    assert not path.exists()


def test_a_hostile_classifier_in_the_cache_is_trained_again(tmp_path, monkeypatch):
    """Its weights are those of another network, or not finite."""
    fitted = []
    original = features.Classifier.init

    def fit(module, train):
        fitted.append(module)
        first = np.zeros((1, *train["image"].shape[1:]), np.float32)
        return original(module, features.jax.random.key(0), first, train=False)[
            "params"
        ]

    monkeypatch.setattr(features, "_fit", fit)
    columns = data.load({"name": "digits"}).train.columns
    few = {name: column[:40] for name, column in columns.items()}
    for count in (1, 1):  # The second is from the cache.
        features.train_feature_network("digits", few, None, cache=tmp_path)
        assert len(fitted) == count
    (path,) = tmp_path.iterdir()
    good = untrusted.read_safetensors(path)
    first = min(good)
    for change in (
        {first: good[first] * np.nan},
        {first: good[first][:1]},
        {"../x": good[first]},
    ):
        save_file({**good, **change}, path)
        features.train_feature_network("digits", few, None, cache=tmp_path)
    assert len(fitted) == 4


def test_a_data_set_names_no_module_to_import(tmp_path, tfds_data_dir, monkeypatch):
    """TFDS imports the module of each class that features.json names."""
    canary, modules = tmp_path / "canary", tmp_path / "modules"
    modules.mkdir()
    (modules / "evil_features.py").write_text(f"open({str(canary)!r}, 'w')")
    monkeypatch.syspath_prepend(modules)
    copy = shutil.copytree(f"{tfds_data_dir}/usps", tmp_path / "data" / "usps")
    (path,) = Path(copy).glob("*/features.json")
    text = path.read_text()
    options = {"name": "tfds:usps", "data_dir": str(tmp_path / "data")}
    assert data.load(options).num_classes == 10
    for name in ("evil_features.Image", "antigravity.Image"):
        path.write_text(
            text.replace("tensorflow_datasets.core.features.image_feature.Image", name)
        )
        with pytest.raises(ConfigError, match="whose module TFDS would import"):
            data.load(options)
    assert not canary.exists()
