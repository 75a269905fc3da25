import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.sampler import CurriculumSampler


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 90), st.integers(1, 5), st.integers(1, 6), st.integers(0, 8), st.integers(1, 6))
def test_ranks_together_read_the_order_across_a_change_of_world_size(samples, per_rank, world, stop_at, other_world):
    batch_size = per_rank * world * other_world
    order = np.random.default_rng(samples).permutation(samples)
    read, cursor = [], 0
    for size, steps in ((world, stop_at), (other_world, 10**6)):
        samplers = [CurriculumSampler(order, batch_size, rank, size, cursor) for rank in range(size)]
        for _, parts in zip(range(steps), zip(*samplers, strict=True), strict=False):
            read += [sample for part in parts for sample in part]
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
            cursor = min(cursor + batch_size, samples)
    assert read == order.tolist()


def test_cursor_and_length():
    sampler = CurriculumSampler(np.arange(10), 4, 0, 2)
    assert len(sampler) == 3
    batches = []
    for batch in sampler:
        batches.append((batch, sampler.cursor))
    assert batches == [([0, 1], 4), ([4, 5], 8), ([8], 10)]
    assert len(sampler) == 0


@pytest.mark.parametrize(
    ("batch_size", "rank", "world_size", "cursor", "message"),
    [
        (0, 0, 1, 0, "batch_size=0"),
        (4, 2, 2, 0, "rank=2"),
        (4, 0, 3, 0, r"use one of \[1, 2, 4\]"),
        (4, 0, 2, 11, "cursor=11 lies outside"),
        (4, 0, 2, 3, "cursor=3 is not at the start"),
    ],
)
def test_impossible_splits_are_refused(batch_size, rank, world_size, cursor, message):
    with pytest.raises(ValueError, match=message):
        CurriculumSampler(np.arange(10), batch_size, rank, world_size, cursor)
