import os

import numpy as np
import pytest

from curriculum.artifact.spool import Spool


@pytest.mark.parametrize("held", [0, 100, 1 << 20])
def test_pieces_come_back_in_part_from_memory_and_from_the_file(tmp_path, held):
    rng = np.random.default_rng(0)
    pieces = [rng.integers(0, 1000, size).astype(np.uint32) for size in (0, 3, 20, 1, 0, 50)]
    with Spool(tmp_path, "thing", np.uint32, 74, held) as spool:
        for piece in pieces:
            spool.append(piece)
        assert len(spool) == 74
        assert len(spool.held) == {0: 0, 100: 24, 1 << 20: 74}[held]
        start = 0
        for piece in pieces:
            first, last = len(piece) // 3, len(piece) * 2 // 3
            assert spool.read(start, start + len(piece)).tolist() == piece.tolist()
            assert spool.read(start + first, start + last).tolist() == piece[first:last].tolist()
            start += len(piece)
        assert list(tmp_path.iterdir()) == []  # the file is unlinked: a kill leaves nothing behind


def test_a_spool_gives_its_file_back(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    with Spool(tmp_path, "thing", np.uint8, 10, 0) as spool:
        spool.append(np.zeros(10, np.uint8))
        assert len(os.listdir("/proc/self/fd")) == before + 1
    assert len(os.listdir("/proc/self/fd")) == before
