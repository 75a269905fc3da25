"""A small dose of the campaign; `python -m tests.torture --only network` is the whole."""

from tests.torture.network import run


def test_no_run_notices_a_network_that_misbehaves(tmp_path):
    tally = run(2, 11, tmp_path)
    assert tally.good, tally.failures
