"""Runs killed by SIGKILL lose no committed checkpoint, and end as if never killed."""

import random

from benchmarks import kill_soak


def test_six_kills_lose_nothing(tmp_path):
    """Of every kind that the 200 of `python -m benchmarks.kill_soak` have."""
    told: list[str] = []
    tally = kill_soak.soak(
        "made_digits", 6, tmp_path, random.Random(0), twice=False, show=told.append
    )
    assert tally.kills.total() == 6 and {*tally.kills} == {*kill_soak.MOMENTS}
    assert (tally.lost, tally.broken, tally.silent) == (0, 0, 0), told
    assert tally.different == []
    # One save is under way while the steps up to the next are trained.
    assert tally.runs and tally.steps <= 2 * kill_soak.FIELDS["checkpoint.every"], told
