"""The same command gives the same run, whatever else differs between two processes."""

import os

import numpy as np
import runs
from PIL import Image

FIELDS = {"num_steps": 3, "sample_every": 3, "num_samples": 4, "eval_every": 3}


def test_a_seed_gives_the_same_run_to_the_bit(tmp_path):
    """Weights, optimiser, averages, what was logged, and samples."""
    commands = {"one": 0, "other": 0, "another seed": 1}
    for i, (name, seed) in enumerate(commands.items()):
        command = runs.words(tmp_path / name, **FIELDS, seed=seed)
        env = {**os.environ, "PYTHONHASHSEED": str(i)}
        code, said = runs.finish(command, env=env)
        assert code == 0, said
    one, other, another = (runs.arrays(tmp_path / name) for name in commands)
    assert runs.different(one, other) == []
    kernels = [name for name in one if name.endswith("['kernel']")]
    assert kernels and set(kernels) <= set(runs.different(one, another))

    measured = [measures(tmp_path / name) for name in commands]
    assert measured[0] == measured[1] != measured[2]
    grids = [
        np.asarray(Image.open(tmp_path / name / "samples" / "00000003.png"))
        for name in commands
    ]
    assert np.array_equal(grids[0], grids[1])
    assert not np.array_equal(grids[0], grids[2])


def measures(workdir) -> list[dict]:
    """What was logged, without what a clock says."""
    clocks = ("time", "images_per_second")
    lines = runs.logged(workdir)
    return [{k: v for k, v in line.items() if k not in clocks} for line in lines]
