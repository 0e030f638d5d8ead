"""Trains a method from a recipe.

python train.py --config=configs/ddpm_digits.py --workdir=runs/ddpm_digits

Any field can be set: --config.num_steps=100. --config=configs/x.py:tiny takes the
recipe's tiny variant. The same command resumes an interrupted run; with --partial
another config does, with the arrays that fit it. Exit codes: 0 done, 1 an error (which
says what to change), 75 stopped by SIGTERM, SIGINT or SIGHUP with everything saved, so
that the same command goes on, 130 interrupted by a second SIGINT before that, so that
it goes on from the last checkpoint. --compile_for=v5e:16x16 trains nothing, but says
what a step would take on that TPU slice; it needs no TPU.
"""

import sys

from absl import app, flags
from ml_collections import config_flags

from genjax.train import cluster, stopping

# New fields are let in, because a recipe names only some; what there is not is refused.
CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A recipe in configs/.",
    lock_config=False,
    accept_new_attributes=True,
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
PARTIAL = flags.DEFINE_bool(
    "partial",
    False,
    "Resume a run with another config, and take what fits of its last checkpoint.",
)
COMPILE_FOR = flags.DEFINE_string(
    "compile_for",
    None,
    "Do not train: say what a step takes on a TPU slice such as v5e:16x16.",
)
DEFINE = {str: flags.DEFINE_string, int: flags.DEFINE_integer}
STOP = stopping.StopRequest(owns_process=True)
PROCESSES = {
    name: DEFINE[kind](name, None, text) for name, (kind, text) in cluster.FLAGS.items()
}


def main(argv: list[str]) -> None:
    """Trains, and says where the results are."""
    if len(argv) > 1:
        sys.exit(f"error: unexpected arguments {argv[1:]}")
    from genjax.config import ConfigError

    if COMPILE_FOR.value:
        from genjax.train import topology

        try:
            print(topology.report(CONFIG.value, COMPILE_FOR.value))
        except ConfigError as error:
            sys.exit(f"error: {error}")
        return
    from genjax.train import checkpoints, loop, memory, runtime, writers

    failures = (
        ConfigError,
        checkpoints.CheckpointError,
        loop.TrainingDivergedError,
        loop.OutOfMemoryError,
    )

    with cluster.together():
        try:
            processes = {name: flag.value for name, flag in PROCESSES.items()}
            memory.use_one_arena()
            runtime.start(stoppable=True, **processes)
            finished = loop.train(
                CONFIG.value, WORKDIR.value, STOP, partial=PARTIAL.value
            )
        except failures as error:
            sys.exit(f"error: {error}")
    if not finished:
        writers.say(STOP.farewell())
        sys.exit(stopping.EXIT_STOPPED)


def has_workdir(values: dict[str, str | None]) -> bool:
    """Whether there is a folder, or no need of one."""
    return any(values.values())


if __name__ == "__main__":
    STOP.__enter__()  # Before what takes long, to the end of the process.
    flags.mark_flag_as_required("config")
    flags.register_multi_flags_validator(
        ("workdir", "compile_for"), has_workdir, "--workdir must name the run's folder"
    )
    app.run(main)
