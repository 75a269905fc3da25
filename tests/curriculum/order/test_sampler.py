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
    assert len(sampler) == 3
    assert len(CurriculumSampler(np.arange(10), 4, 0, 2, 8)) == 1


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
        cut, read = CurriculumSampler(order, batch_size, rank, world, micro_batch_size=micro), 0
        parts = iter(cut)
        for number, ids in enumerate(whole):
            left = min(batch_size, samples - number * batch_size)
            longest = -(-left // world)
            lists = []
            for _ in range(-(-longest // micro)):
                assert cut.cursor == whole.cursor - (whole.cursor % batch_size or batch_size)
                lists.append(next(parts))
            assert list(chain(*lists)) == ids
            assert all(len(one) <= micro for one in lists)
            assert world > 1 or all(lists)
            assert cut.cursor == whole.cursor
            read += len(lists)
        assert next(parts, None) is None
        assert read == len(cut)


def test_a_step_that_was_begun_is_read_again():
    sampler = CurriculumSampler(np.arange(16), 8, 0, 2, micro_batch_size=2)
    lists = iter(sampler)
    assert [next(lists) for _ in range(3)] == [[0, 1], [2, 3], [8, 9]]
    assert sampler.cursor == 8
    assert next(iter(CurriculumSampler(np.arange(16), 8, 0, 2, sampler.cursor))) == [8, 9, 10, 11]


def test_a_partial_last_step_is_left_out_on_request():
    order = np.arange(23)
    for rank in range(2):
        sampler = CurriculumSampler(order, 4, rank, 2, 4, 1, drop_last=True)
        lists = list(sampler)
        assert len(lists) == len(sampler) == 8
        assert [one for [one] in lists] == [p for p in range(4, 20) if p // 2 % 2 == rank]
        assert (sampler.dropped, sampler.cursor) == (3, 20)
    assert CurriculumSampler(order, 4, 0, 1).dropped == 0
    assert list(CurriculumSampler(order, 4, 0, 1, 23, drop_last=True)) == []


class Planned(np.ndarray):
    """Ids that were planned for a batch size, as an Order's are."""

    batch_size = 8


def planned(samples):
    return np.random.default_rng(samples).permutation(samples).view(Planned)


def test_a_batch_size_that_is_not_the_orders_is_refused():
    with pytest.raises(ValueError, match=r"batch_size=4 is not the order's 8, .*: use batch_size=8 .*, or arrange"):
        CurriculumSampler(planned(20), 4, 0, 1)
    assert len(CurriculumSampler(planned(20), 8, 0, 1)) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_second_pass_is_refused(workers):
    from torch.utils.data import DataLoader

    sampler = CurriculumSampler(planned(20), 8, 0, 1)
    loader = DataLoader(range(20), batch_sampler=sampler, num_workers=workers, collate_fn=list)
    assert sorted(chain(*loader)) == list(range(20))
    for again in (loader, sampler):
        with pytest.raises(ValueError, match=r"20 samples have been read, .*: train for one epoch; .*preference\.uses"):
            next(iter(again))
    at_the_end = CurriculumSampler(planned(20), 8, 0, 1, cursor=20)
    assert list(at_the_end) == []
    with pytest.raises(ValueError, match="train for one epoch"):
        list(at_the_end)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_that_was_left_is_not_taken_up_after_what_the_loader_fetched(workers):
    sampler = CurriculumSampler(planned(100), 8, 0, 1)
    assert len(loaded(sampler, workers, lists=2)) == 2
    with pytest.raises(ValueError, match=rf"read up to cursor={sampler.cursor}, .*cursor=cursor_after\(steps done"):
        loaded(sampler, workers)


def test_a_rank_of_several_has_no_batch_size_to_divide():
    assert CurriculumSampler(planned(20), 8, 0, 1).batch_size == 8
    assert CurriculumSampler(planned(20), 8, 0, 1, micro_batch_size=2).batch_size == 2
    with pytest.raises(ValueError, match=r"part of rank 1 of 2; .*CurriculumSampler\.for_accelerate"):
        _ = CurriculumSampler(planned(20), 8, 1, 2).batch_size


@pytest.mark.parametrize(
    ("processes", "accumulation", "message"),
    [
        (3, 1, r"world_size=3 does not divide the order's batch of 8 samples: use one of world_size=\[1, 2, 4, 8\]"),
        (2, 3, r"accumulation=3 does not divide a rank's 4 of the order's 8 .*: use one of \[1, 2, 4\]"),
        (2, 0, r"accumulation=0 does not divide"),
    ],
)
def test_what_accelerate_cannot_divide_is_refused(processes, accumulation, message):
    with pytest.raises(ValueError, match=message):
        CurriculumSampler.for_accelerate(planned(20), processes, accumulation)


@pytest.mark.parametrize("even_batches", [True, False])
@pytest.mark.parametrize(("ranks", "accumulation"), [(1, 2), (2, 1), (2, 2), (4, 2), (8, 1), (1, 8)])
@pytest.mark.parametrize("samples", [1, 3, 8, 23, 40, 41])
def test_accelerate_deals_out_every_step_in_order(samples, ranks, accumulation, even_batches):
    from accelerate.data_loader import BatchSamplerShard

    shares = []
    for rank in range(ranks):
        sampler = CurriculumSampler.for_accelerate(planned(samples), ranks, accumulation)
        shard = BatchSamplerShard(sampler, ranks, rank, even_batches=even_batches)
        shares.append(list(shard if ranks > 1 else sampler))  # accelerate leaves the sampler of a single rank alone
    whole = samples // 8
    steps = [[one[i * accumulation : (i + 1) * accumulation] for one in shares] for i in range(whole)]
    read = [sorted(number for share in step for part in share for number in part) for step in steps]
    order = planned(samples).tolist()
    assert read == [sorted(order[i * 8 : i * 8 + 8]) for i in range(whole)]
    everything = [number for share in shares for part in share for number in part]
    assert set(everything) == set(order)
    repeated = len(everything) - samples
    assert repeated == 0 or (even_batches and ranks > 1 and repeated < 8)


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
