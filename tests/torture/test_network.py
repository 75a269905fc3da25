"""A few attempts of the campaign; `python -m tests.torture --only network` runs it in full."""

from tests.torture.network import run


def test_a_misbehaving_network_does_not_affect_a_run(tmp_path):
    tally = run(1, 11, tmp_path)
    assert tally.good, tally.failures
