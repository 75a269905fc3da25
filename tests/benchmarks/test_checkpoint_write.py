"""benchmarks.checkpoint_write: every side writes the whole state."""

import pytest

from benchmarks.checkpoint_write import SIDES


@pytest.mark.parametrize("side", SIDES)
def test_a_side_writes_the_whole_state(side, tmp_path) -> None:
    measured = SIDES[side]({"work": str(tmp_path), "bytes": 20_000_000, "seed": 1})

    assert measured["seconds"] > 0
    assert 10e6 < measured["bytes"] < 60e6
    assert not list(tmp_path.iterdir()), "nothing is left behind"
