"""Batches of each rank: the order's batches, split, padded and hashed."""

import numpy as np
import pytest
import torch

from curriculum.arrange import arrange
from curriculum.order.consumed import joined, order_hash
from curriculum.order.split import Split, cursor_after
from curriculum.tokens.tokens import IGNORED, Tokens
from models.attention import Documents
from train.batches import batches, check_consumed
from train.distributed.world import World
from train.objectives.language_model import LanguageModel


def rank_of(rank, size):
    return World(rank, size, rank, size, torch.device("cpu"))


@pytest.fixture(scope="module")
def tokens(tokens_folder):
    return Tokens.open(tokens_folder, "train")


@pytest.fixture(scope="module")
def order(tokens_folder, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("orders") / "order")
    return arrange.run(arrange.ArrangeSettings(tokens=str(tokens_folder), output=folder, batch_size=24, stages=1))


@pytest.mark.parametrize(("world", "micro", "step"), [(1, 24, 0), (1, 4, 2), (2, 3, 0), (3, 2, 1), (24, 1, 0)])
def test_ranks_together_get_every_global_batch(order, tokens, world, micro, step):
    assert len(order) % 24, "the last batch should not be full"
    ranks = [rank_of(rank, world) for rank in range(world)]
    per_rank = [list(batches(order, tokens, one, micro, step, LanguageModel(tokens))) for one in ranks]
    whole = own = order_hash(order, cursor_after(step, 24, len(order)))
    for number, parts in enumerate(zip(*per_rank, strict=True), start=step):
        ids = order[number * 24 : number * 24 + 24]
        assert [sample for part in parts for sample in part.ids] == ids.tolist()
        for part in parts:
            assert part.step == number
            assert [tuple(rows.shape) for rows, _ in part.micro_batches] == [(micro, 33)] * Split(
                24, world, micro
            ).accumulation
            assert part.global_tokens == part.global_count == tokens.real_tokens(ids).sum()
            assert part.source_N.tolist() == tokens.source_of(np.array(part.ids)).tolist()
            assert part.tokens_N.tolist() == tokens.real_tokens(np.array(part.ids)).tolist()
            for rows, documents in part.micro_batches:
                assert documents.lengths == Documents.of(rows[:, :-1], tokens.end_of_text).lengths
            rows = torch.cat([rows for rows, _ in part.micro_batches])
            assert np.array_equal(rows[: len(part.ids)], tokens.sample(part.ids))
            assert (rows[len(part.ids) :] == IGNORED).all()
            assert part.global_hash == parts[0].global_hash
        buckets = torch.cat([part.bucket_N for part in parts])
        assert buckets.tolist() == order.bucket[number * 24 : number * 24 + 24].tolist()
        whole = joined(whole, parts[0].global_hash)
        own = joined(own, *(part.own_hash for part in parts))
        assert whole == own == order_hash(order, cursor_after(number + 1, 24, len(order)))
    assert number + 1 == order.steps


def test_ranks_that_read_other_samples_are_detected(order, tmp_path, forged, tokens):
    other = forged(order, tmp_path / "other", 3, 100)
    batch = next(batches(order, tokens, rank_of(0, 1), 24, 0, LanguageModel(tokens)))
    check_consumed(rank_of(0, 1), batch.own_hash, batch.global_hash, order)
    theirs = next(batches(other, tokens, rank_of(0, 1), 24, 0, LanguageModel(tokens)))
    with pytest.raises(
        ValueError, match="they read different copies of it, or a damaged one; give every node the same"
    ):
        check_consumed(rank_of(0, 1), theirs.own_hash, batch.global_hash, order)
