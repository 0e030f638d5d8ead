"""Two processes of several devices each, as on a cluster, against one of one device."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cluster_worker
import jax
import numpy as np
import pytest
import yaml
from cluster_worker import STEPS, make_config
from PIL import Image

from genjax import data
from genjax.config import ConfigError
from genjax.train import checkpoints, cluster, loop, phases, quality, reports, tables
from genjax.train.workdir import claim

ROOT = Path(__file__).parents[2]
MORE = 2  # Steps, after the stop.


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def metrics(workdir: Path) -> list[dict]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def start(words: list, devices: int, **env: str) -> subprocess.Popen:
    """A process that sees so many devices."""
    flags = os.environ["XLA_FLAGS"]
    flags = f"{flags} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ends(processes: list[subprocess.Popen]) -> list[tuple[str, str]]:
    """What each printed, once all have ended with 0."""
    try:
        printed = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, error) in zip(processes, printed, strict=True):
        assert process.returncode == 0, error[-3000:]
    return printed


@dataclass(frozen=True)
class Runs:
    """What was written, and what the processes told.

    Attributes:
        folder: Of it all.
        one: The run of one process.
        two: That of two.
        alone: That which one process took over from two.
        index: The rows that one process was given, [STEPS, 64].
        last: Step to which two went on.
        port: Of their coordinator.
        stopped: What each of two told until the stop,
        commands: and of what they ran afterwards,
        printed: which printed this to stdout and stderr.
    """

    folder: Path
    one: Path
    two: Path
    alone: Path
    index: np.ndarray
    last: int
    port: int
    stopped: list[dict]
    commands: list[dict]
    printed: list[tuple[str, str]]


def make_runs(folder: Path) -> Runs:
    """Two processes x 4 devices train and are stopped; 2 x 2 go on, draw, evaluate.

    The first pair finds itself by the variables that Slurm sets, the second by flags.
    One process of one device trains as long, and goes on from a copy of what the two
    were stopped with.
    """
    quality.make_network("cnn", data.load({"name": "digits"}), "digits")
    one, two, alone = (folder / name for name in ("one", "run", "alone"))
    finished, index = cluster_worker.train(
        make_config(**{"num_steps": STEPS, "mesh.fsdp": 1}), one
    )
    assert finished

    slurm = dict(
        SLURM_JOB_ID=str(os.getpid()), SLURM_STEP_NODELIST="127.0.0.1", SLURM_NTASKS="2"
    )
    worker = ROOT / "tests" / "cluster_worker.py"
    ends(
        [
            start(
                [worker, "stopped", folder], 4, **slurm,
                SLURM_PROCID=str(i), SLURM_LOCALID=str(i),
            )
            for i in range(2)
        ]
    )  # fmt: skip
    last = metrics(two)[-1]["step"] + MORE
    shutil.copytree(two, alone)

    fields = dict(
        num_steps=last, eval_every=last, eval_samples=9, eval_features="cnn",
        sample_every=MORE,
    )  # fmt: skip
    flags = [
        f"--config.{k}={v}" for k, v in {**cluster_worker.FIELDS, **fields}.items()
    ]
    port = free_port()
    lines = [
        ["train.py", "--config=configs/vae_digits.py:tiny", *flags],
        ["sample.py", "--num=11", "--batch_size=6", f"--out={folder / 'drawn'}"],
        ["evaluate.py", "--num=100", "--num_samples=30", "--batch_size=52"],
    ]
    common = [
        f"--workdir={two}", f"--coordinator=127.0.0.1:{port}", "--num_processes=2"
    ]  # fmt: skip
    printed = ends(
        [
            start(
                [worker, "commands", folder]
                + [json.dumps([*x, *common, f"--process_id={i}"]) for x in lines],
                2,
            )
            for i in range(2)
        ]
    )
    options = {**fields, "mesh.fsdp": 1}
    loop.train(make_config(**options), alone)
    told = {
        task: [json.loads((folder / f"{task}_{i}.json").read_text()) for i in range(2)]
        for task in ("stopped", "commands")
    }
    return Runs(folder, one, two, alone, index, last, port, printed=printed, **told)


def test_two_processes_do_what_one_does(tmp_path, untrained_classifier):
    """One test, lest every worker of the suite starts the processes anew."""
    runs = make_runs(tmp_path)
    check_the_loss_curve(runs)
    check_that_each_reads_rows_of_its_own(runs)
    check_that_a_signal_to_one_stopped_both(runs)
    check_what_was_restored(runs)
    check_that_two_go_on_and_judge_as_one(runs)
    check_what_commands_draw_and_measure(runs)
    check_that_flags_are_passed_and_one_speaks(runs)
    check_that_a_folder_of_one_is_refused(runs)


def check_the_loss_curve(runs: Runs) -> None:
    """Float sums in another order: equal to about 1e-6 a step."""
    assert [told["devices"] for told in runs.stopped] == [[4, 8], [4, 8]]
    one, two = (
        [row["vae/loss"] for row in metrics(path)[:STEPS]]
        for path in (runs.one, runs.two)
    )
    assert len(one) == len(two) == STEPS and len(set(one)) == STEPS
    np.testing.assert_allclose(two, one, rtol=1e-5)


def check_that_each_reads_rows_of_its_own(runs: Runs) -> None:
    """24 batches of 64 are an epoch of 1,501 examples, and 35 of the next."""
    shares = [np.array(told["index"])[:STEPS] for told in runs.stopped]
    assert [share.shape for share in shares] == [(STEPS, 32)] * 2
    together = np.concatenate(shares, axis=1)
    np.testing.assert_array_equal(together, runs.index)
    assert sorted(together.ravel()[:1501].tolist()) == list(range(1501))


def check_that_a_signal_to_one_stopped_both(runs: Runs) -> None:
    assert [told["finished"] for told in runs.stopped] == [False, False]
    steps = {len(told["index"]) for told in runs.stopped}
    assert steps == {runs.last - MORE} and STEPS <= runs.last - MORE < 10 * STEPS


def check_what_was_restored(runs: Runs) -> None:
    """2 x 4 devices wrote it, with the arrays split in two; 2 x 2 and 1 read it."""
    assert [told["devices"] for told in runs.commands] == [[2, 4], [2, 4]]
    (phase,) = phases.build(make_config(**{"num_steps": 1, "mesh.fsdp": 1}))
    kept = checkpoints.Checkpoints(runs.two, phase.config.checkpoint)
    alone = kept.restore(runs.last - MORE, phases.abstract_state(phase))
    kept.close()
    alone = cluster_worker.leaves(alone)
    with (
        np.load(runs.folder / "written.npz") as written,
        np.load(runs.folder / "restored.npz") as restored,
    ):
        assert set(written) == set(restored) == set(alone) and len(alone) > 20
        for name in written:
            np.testing.assert_array_equal(restored[name], written[name], strict=True)
            np.testing.assert_array_equal(alone[name], written[name], strict=True)


def check_that_two_go_on_and_judge_as_one(runs: Runs) -> None:
    """Both take part in the features of 1,501 real images, in batches of 256."""
    two, alone = metrics(runs.two), metrics(runs.alone)
    last = runs.last
    assert [row["step"] for row in two] == [*range(1, last + 1), last]
    for a, b in zip(alone[last - MORE :], two[last - MORE :], strict=True):
        assert set(a) == set(b)
        for name in {"vae/loss", "test/vae/loss", "samples/fd_digits_cnn"} & set(a):
            assert b[name] == pytest.approx(a[name], rel=1e-3)
    assert {"test/vae/loss", "samples/fd_digits_cnn"} < set(two[-1])
    grids = [
        np.asarray(Image.open(path / "samples" / f"{last:08d}.png"), int)
        for path in (runs.two, runs.alone)
    ]
    assert np.abs(grids[0] - grids[1]).max() <= 2


def check_what_commands_draw_and_measure(runs: Runs) -> None:
    """11 images by 6, which 4 devices make 8, are no whole number of batches.

    100 examples by 52 are 52 and 48, on 4 devices as on one: the noise is the same.
    """
    model = tables.Model.load(runs.two, batch_size=52)
    assert model.step == runs.last and jax.device_count() == 1
    drawn, _ = model.samples(11)
    with np.load(runs.folder / "drawn" / "samples.npz") as file:
        assert file["images"].shape == (11, 8, 8, 1)
        assert np.abs(file["images"].astype(int) - drawn).max() <= 1
    alone = reports.whole(model, None, num=100, num_samples=30).results
    results = json.loads((runs.two / "evaluation.json").read_text())["results"]
    assert set(results) == set(alone)
    # A draw is a level off where the float was near a half.
    for name, entry in alone.items():
        assert results[name]["examples"] == entry["examples"], name
        assert results[name]["value"] == pytest.approx(entry["value"], rel=1e-3), name


def check_that_flags_are_passed_and_one_speaks(runs: Runs) -> None:
    for i, told in enumerate(runs.commands):
        assert told["joined"] == [[f"127.0.0.1:{runs.port}", 2, i]] * 3
        assert told["codes"] == [0, 0, 0]
    (out, error), (silent, hushed) = runs.printed
    assert "nats/nll" in out and f"is at step {runs.last}" in error
    assert f"from step {runs.last - MORE}" in error
    # What remains is of XLA's own: how its processes found each other. Its threads
    # write into each other's lines, so words are what can be told apart.
    gloo = "Gloo Rank is connected to peer ranks Expected number of"
    assert set(re.findall("[A-Za-z]+", silent)) <= set(gloo.split())
    assert "step" not in hushed and "saved" not in hushed


def check_that_a_folder_of_one_is_refused(runs: Runs) -> None:
    for told in runs.stopped:
        assert "storage that all machines share" in told["refused"]
        assert "processes [1]" in told["refused"]


def test_an_address_is_no_folder(tmp_path):
    with pytest.raises(ConfigError, match="mount the bucket"):
        claim("gs://bucket/run", make_config())


@pytest.mark.parametrize(
    "coordinator, num_processes, process_id, words",
    [
        ("10.0.0.1:1234", None, None, "--num_processes and --process_id lacking"),
        (None, None, 0, "--coordinator and --num_processes lacking"),
        ("10.0.0.1", 2, 0, "must be host:port"),
        ("10.0.0.1:", 2, 0, "must be host:port"),
        ("10.0.0.1:99999", 2, 0, "must be host:port"),
        ("http://10.0.0.1:1234", 2, 0, "must be host:port"),
        ("10.0.0.1:1234", 2, 2, "--process_id=2 and --num_processes=2"),
        ("10.0.0.1:1234", 2, -1, "--process_id=-1 and --num_processes=2"),
        ("10.0.0.1:1234", 0, 0, "--process_id=0 and --num_processes=0"),
    ],
)
def test_flags_that_cannot_be_are_refused(
    coordinator, num_processes, process_id, words
):
    with pytest.raises(ConfigError, match=words):
        cluster.check(coordinator, num_processes, process_id)


@pytest.mark.parametrize("host", ["10.0.0.1", "[::1]", "run-0.run"])
def test_hosts_are_names_or_addresses(host):
    assert cluster.check(f"{host}:1234", 2, 1)
    assert not cluster.check(None, None, None)


@pytest.mark.parametrize(
    "words",
    [
        ("train.py", "--config=configs/vae_digits.py:tiny"),
        ("sample.py",),
        ("evaluate.py",),
    ],
)
def test_every_command_says_which_flags_are_lacking(tmp_path, words):
    process = start([*words, f"--workdir={tmp_path}", "--process_id=1"], 1)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in error
    assert error.startswith("error: --coordinator, --num_processes and --process_id go")


JOIN = "from genjax.train import cluster; cluster.TIMEOUT = 1; cluster.join"


@pytest.mark.parametrize("process_id", [0, 1])
def test_processes_that_do_not_meet_say_what_to_look_at(process_id):
    address = f"127.0.0.1:{free_port()}"
    process = start(["-c", f"{JOIN}('{address}', 2, {process_id})"], 1)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1 and "Check failure" not in error
    assert f"met at --coordinator={address} within 1 s" in error


@pytest.mark.parametrize("stoppable", [True, False])
def test_a_command_that_does_not_ask_ends_at_sigterm(stoppable):
    """JAX takes the signal as soon as it is told of a cluster, be it of one."""
    words = f"stoppable={stoppable}, coordinator='127.0.0.1:{free_port()}'"
    program = f"""
import os, signal
from genjax.train import runtime
runtime.start({words}, num_processes=1, process_id=0)
os.kill(os.getpid(), signal.SIGTERM)
"""
    process = start(["-c", program], 1)
    process.communicate(timeout=60)
    assert process.returncode == (0 if stoppable else -signal.SIGTERM)


def test_half_a_cluster_found_is_an_error():
    """JAX reads JAX_COORDINATOR_ADDRESS, but no variable for the other two."""
    process = start(["-c", f"{JOIN}()"], 1, JAX_COORDINATOR_ADDRESS="127.0.0.1:1234")
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ConfigError: JAX could not join" in error and "--num_processes" in error


@pytest.mark.parametrize("name, explicit", [("gpu", True), ("tpu", False)])
def test_the_jobs_of_kubernetes_fit_together_and_the_command(name, explicit):
    text = (ROOT / "docs" / "kubernetes" / f"{name}.yaml").read_text()
    service, job = yaml.safe_load_all(text)
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,), (volume,) = pod["containers"], pod["volumes"]
    (mounted,) = container["volumeMounts"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert spec["completions"] == spec["parallelism"]
    assert spec["completionMode"] == "Indexed" and mounted["name"] == volume["name"]
    command, *words = shlex.split(container["args"][0].removeprefix("exec python "))
    flags = dict(word.removeprefix("--").split("=", 1) for word in words)
    assert command == "train.py" and (ROOT / flags.pop("config")).exists()
    assert flags.pop("workdir").startswith(mounted["mountPath"])
    if explicit:
        host = f"{job['metadata']['name']}-0.{pod['subdomain']}"
        assert flags.pop("coordinator").split(":")[0] == host
        assert int(flags.pop("num_processes")) == spec["parallelism"]
        assert flags.pop("process_id") == "$JOB_COMPLETION_INDEX"
    assert not flags
