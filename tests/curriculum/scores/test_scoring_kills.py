"""A short run of the fault-injection campaign on scoring workers (python -m tests.torture --only scoring)."""

from tests.torture.scoring import run


def test_killed_workers_and_joins_change_no_byte(tmp_path):
    tally = run(4, 7, tmp_path)
    assert tally.good, tally.failures
