"""Within a step every arrangement of its samples is equally likely, and steps are independent of each other."""

from itertools import permutations

import numpy as np
import pytest

from curriculum.arrange.kernels import compose_steps

NO_TURNS = np.zeros(0, np.int64)


def compose(counts_SC, key=0, first_step=0, turn_C=NO_TURNS):
    """Return ids and cells of some steps; ids rise through the cells' streams, cell after cell."""
    counts_SC = np.asarray(counts_SC, np.int32)
    count_C = counts_SC.sum(axis=0, dtype=np.int64)
    stream = np.arange(count_C.sum(), dtype=np.uint32)
    ids, cells = np.empty_like(stream), np.empty(len(stream), np.uint8)
    compose_steps(first_step, counts_SC, stream, np.cumsum(count_C) - count_C, turn_C, np.uint64(key), ids, cells)
    return ids, cells


def chi_square(counts):
    mean = counts.sum() / counts.size
    return ((counts - mean) ** 2 / mean).sum()


def test_all_arrangements_of_a_step_come_up_alike():
    steps = 24_000
    ids, _ = compose([[1, 2, 1]] * steps)
    rank_SB = np.argsort(np.argsort(ids.reshape(steps, 4), axis=1), axis=1)
    found, counts = np.unique(rank_SB, axis=0, return_counts=True)
    assert len(found) == len(list(permutations(range(4))))
    assert chi_square(counts) < 23 + 6 * np.sqrt(46)


@pytest.mark.parametrize("batch", [3, 8, 1025, 4000])
def test_every_sample_is_as_likely_at_every_place_of_its_step(batch):
    steps = 200_000 // batch
    ids, cells = compose([[batch // 3, batch - batch // 3]] * steps)
    assert sorted(ids.tolist()) == list(range(steps * batch))
    first_SB = cells.reshape(steps, batch) == 0
    parts = min(batch, 8)
    place_P = np.array([first_SB[:, part].mean() for part in np.array_split(np.arange(batch), parts)])
    share = (batch // 3) / batch
    allowed = 6 * np.sqrt(share * (1 - share) / (steps * (batch // parts)))
    assert np.abs(place_P - share).max() < allowed


def test_neighbouring_steps_and_keys_are_arranged_apart():
    _, cells = compose([[16, 16]] * 2000)
    rows = {row.tobytes() for row in cells.reshape(2000, 32)}
    assert len(rows) == 2000
    assert compose([[16, 16]], key=1)[1].tolist() != compose([[16, 16]], key=0)[1].tolist()


def test_a_step_does_not_depend_on_the_piece_that_it_is_made_in():
    counts = [[5, 3], [4, 4], [2, 6]]
    _, whole = compose(counts)
    parts = [compose([row], first_step=step)[1] for step, row in enumerate(counts)]
    assert whole.tolist() == np.concatenate(parts).tolist()


def test_in_a_sort_the_cells_of_a_stratum_stand_in_their_turns():
    turn_C = np.array(
        [0 << 32 | 1, 0 << 32 | 0, 2 << 32 | 2, 2 << 32 | 3]
    )  # two strata, the first one's turns reversed
    ids, cells = compose([[3, 2, 4, 1]], turn_C=turn_C)
    assert cells[cells < 2].tolist() == [1, 1, 0, 0, 0]
    assert cells[cells >= 2].tolist() == [2, 2, 2, 2, 3]
    for cell in range(4):
        assert (np.diff(ids[cells == cell].astype(np.int64)) > 0).all()
    assert len({tuple(compose([[3, 2, 4, 1]], key=key, turn_C=turn_C)[1] // 2) for key in range(50)}) > 25
