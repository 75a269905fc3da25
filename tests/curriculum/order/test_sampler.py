import subprocess
import sys
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.order.sampler import CurriculumSampler
from curriculum.order.split import cursor_after


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
        (4, 0, 3, 0, r"use one of world_size=\[1, 2, 4\]"),
        (4, 0, 2, 11, "cursor=11 is outside"),
        (4, 0, 2, 3, "cursor=3 is not at the start of a batch of 4 samples: use 0, or 4"),
        (4, 0, 2, 9, "cursor=9 is not at the start of a batch of 4 samples: use 8, or 10"),
    ],
)
def test_impossible_splits_are_refused(batch_size, rank, world_size, cursor, message):
    with pytest.raises(ValueError, match=message):
        CurriculumSampler(np.arange(10), batch_size, rank, world_size, cursor)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 90))
def test_micro_batches_join_to_the_list_of_the_step(world, accumulation, micro, samples):
    order = np.random.default_rng(samples).permutation(samples)
    batch_size = world * accumulation * micro
    for rank in range(world):
        whole = CurriculumSampler(order, batch_size, rank, world)
        cut = CurriculumSampler(order, batch_size, rank, world, micro_batch_size=micro)
        assert len(cut) == len(whole) * accumulation
        parts = iter(cut)
        for ids in whole:
            lists = []
            for _ in range(accumulation):
                assert cut.cursor == whole.cursor - (whole.cursor % batch_size or batch_size)
                lists.append(next(parts))
            assert list(chain(*lists)) == ids
            assert all(len(one) <= micro for one in lists)
            assert cut.cursor == whole.cursor
        assert next(parts, None) is None


def test_a_step_that_was_begun_is_read_again():
    sampler = CurriculumSampler(np.arange(16), 8, 0, 2, micro_batch_size=2)
    lists = iter(sampler)
    assert [next(lists) for _ in range(3)] == [[0, 1], [2, 3], [8, 9]]
    assert sampler.cursor == 8
    assert next(iter(CurriculumSampler(np.arange(16), 8, 0, 2, sampler.cursor))) == [8, 9, 10, 11]


def loaded(sampler, workers, lists=None):
    """The ids that a DataLoader with this batch_sampler yields, list by list."""
    from torch.utils.data import DataLoader

    loader = DataLoader(range(1000), batch_sampler=sampler, num_workers=workers, collate_fn=list)
    return [ids for _, ids in zip(range(10**6 if lists is None else lists), loader, strict=False)]


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("micro", [None, 3])
def test_a_data_loader_gives_the_same_ids_with_any_number_of_workers(workers, micro):
    order = np.random.default_rng(0).permutation(100)
    for rank in range(2):
        plain = list(CurriculumSampler(order, 12, rank, 2, 24, micro))
        assert loaded(CurriculumSampler(order, 12, rank, 2, 24, micro), workers) == plain


def test_workers_fetch_ahead_and_the_steps_done_say_where_to_go_on():
    order = np.random.default_rng(0).permutation(1000)
    sampler = CurriculumSampler(order, 10, 0, 1)
    read = loaded(sampler, 2, lists=3)
    assert sampler.cursor > 30  # the loader's, not the trainer's
    read += loaded(CurriculumSampler(order, 10, 0, 1, cursor_after(3, 10, len(order))), 2)
    assert list(chain(*read)) == order.tolist()


def test_curriculum_imports_no_torch():
    code = "import sys, curriculum.order.sampler, curriculum.order.consumed; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
