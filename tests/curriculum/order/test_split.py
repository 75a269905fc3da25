from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.order.split import LISTED, Split, cursor_after, divisors, listed


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(1, 7), st.integers(1, 5), st.integers(1, 6), st.integers(0, 300), st.data())
def test_edges_cut_a_step_without_gap_or_overlap(world, accumulation, micro, start, data):
    split = Split(world * accumulation * micro, world, micro)
    assert (split.part_size, split.accumulation) == (accumulation * micro, accumulation)
    count = data.draw(st.integers(0, split.batch_size))
    edges_RM = split.edges(start, start + count, np.arange(world))
    assert edges_RM.shape == (world, accumulation + 1)
    assert [edges_RM[0, 0], edges_RM[-1, -1]] == [start, start + count]
    assert all(this[-1] == following[0] for this, following in pairwise(edges_RM))
    sizes_RM = np.diff(edges_RM)
    parts_R = sizes_RM.sum(axis=1)
    assert parts_R.max() - parts_R.min() <= 1
    for part, sizes in zip(parts_R, sizes_RM, strict=True):  # filled from the first micro-batch on
        assert sizes.tolist() == [min(micro, max(0, part - micro * j)) for j in range(accumulation)]
    for rank in range(world):
        assert split.edges(start, start + count, rank).tolist() == edges_RM[rank].tolist()


def test_a_whole_batch_is_cut_evenly():
    assert Split(24, 3, 4).edges(48, 72, 1).tolist() == [56, 60, 64]
    assert Split(24, 3).edges(48, 72, 2).tolist() == [64, 72]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ((0,), "batch_size=0 must be at least 1"),
        ((4, 0), "world_size=0 must be at least 1"),
        ((4, 1, 0), "micro_batch_size=0 must be at least 1"),
        ((4, 8), r"world_size=8 does not divide .* batch of 4 samples: use one of world_size=\[1, 2, 4\]$"),
        ((1024, 24, 64), r"\[1, 2, 4, .*, 512, 1024\] \(those that fit micro_batch_size=64: \[1, 2, 4, 8, 16\]\)"),
        ((1024, 512, 4), r"micro_batch_size=4 on 512 ranks .* use one of micro_batch_size=\[1, 2\]"),
        (
            (1024, 8, 48),
            r"micro_batch_size=48 on 8 ranks .* use one of micro_batch_size=\[1, 2, 4, .*, 128\]",
        ),
    ],
)
def test_impossible_splits_are_refused_with_the_possible_ones(split, message):
    with pytest.raises(ValueError, match=message):
        Split(*split)


@pytest.mark.parametrize("asked", [1, 50, 719, 1000, 10**9])
def test_a_long_list_shows_the_choices_around_what_was_asked(asked):
    choices = divisors(5040)
    text = listed(choices, asked)
    shown = [int(word) for word in text[1 : text.index("]")].split(", ")]
    assert len(choices) == 60
    assert "the nearest of 60" in text
    assert len(shown) == LISTED
    assert min(choices, key=lambda size: abs(size - asked)) in shown


def test_cursor_after_ends_with_the_order():
    assert [cursor_after(step, 4, 10) for step in range(5)] == [0, 4, 8, 10, 10]
