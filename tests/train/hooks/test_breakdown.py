import json
from types import SimpleNamespace

import pytest
import torch

from curriculum.arrange import arrange
from curriculum.preference import Sorted
from curriculum.tokens.tokens import IGNORED, Tokens
from models.losses.cross_entropy import TokenLosses
from tests.torture.ranks import on_ranks
from train.batches import batches
from train.hooks.breakdown import Breakdown
from train.objectives.language_model import LanguageModel

MICRO = 4


@pytest.fixture(scope="module")
def data(tokens_folder, scores_folder, tmp_path_factory):
    """An order sorted by score: in most steps most buckets are empty."""
    folder = tmp_path_factory.mktemp("orders") / "order"
    places = {"tokens": str(tokens_folder), "scores": str(scores_folder), "output": str(folder)}
    return arrange.run(arrange.ArrangeSettings(**places, preference=Sorted(buckets=8), batch_size=16)), Tokens.open(
        tokens_folder
    )


def made_up(ids_BS):
    """Return losses computed from the tokens, 0 where there is no label."""
    labels = ids_BS[:, 1:]
    losses = torch.where(labels == IGNORED, 0.0, labels.float().sin().abs() + ids_BS[:, :1].float() / 300)
    return TokenLosses(losses.sum(), losses)


def loop_of(world, order, tokens):
    return SimpleNamespace(world=world, inputs=SimpleNamespace(order=order, tokens=tokens))


def drive(hook, loop, first, last, skipped=()):
    """Run the steps `first` to `last` - 1 as the loop does."""
    order, tokens = loop.inputs.order, loop.inputs.tokens
    for batch in batches(order, tokens, loop.world, MICRO, first, LanguageModel(tokens)):
        if batch.step == last:
            return
        losses = [made_up(micro.ids_BS).losses_BT.double().sum(1) for micro in batch.micro_batches]
        loop.losses_N = torch.cat(losses)[: len(batch.ids)]
        loop.left_out = torch.tensor(float(batch.step in skipped))
        hook.post_step(loop, batch)


def expected(order, tokens, first, last, skipped=()):
    """The same from whole batches, without ranks and micro-batches."""
    sums, counts = {}, {}
    for step in (step for step in range(first, last) if step not in skipped):
        where = slice(step * order.batch_size, min((step + 1) * order.batch_size, len(order)))
        ids = order[where]
        losses = made_up(torch.from_numpy(tokens.sample(ids))).losses_BT.double().sum(1).tolist()
        sources, buckets = tokens.source_of(ids), order.bucket[where]
        for loss, source, bucket, real in zip(losses, sources, buckets, tokens.real_tokens(ids), strict=True):
            for key in (f"source/{tokens.sources[source]}", f"bucket/{order.buckets[bucket].name}"):
                sums[key] = sums.get(key, 0.0) + loss
                counts[key] = counts.get(key, 0) + int(real)
    names = [f"source/{name}" for name in tokens.sources] + [f"bucket/{bucket.name}" for bucket in order.buckets]
    losses = {f"{name}/loss": pytest.approx(sums[name] / counts[name]) if name in sums else None for name in names}
    return losses | {f"{name}/tokens": counts.get(name, 0) for name in names}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_loss_by_source_and_bucket_is_that_of_the_samples(data, size):
    order, tokens = data
    middle = order.steps // 2

    def rank(world):
        hook, loop = Breakdown(), loop_of(world, order, tokens)
        hook.pre_train(loop)
        drive(hook, loop, 0, middle)
        begin = hook.metrics(loop)
        drive(hook, loop, middle, order.steps, skipped=(middle + 1,))  # the last step is not full
        return begin, hook.metrics(loop)

    for begin, end in on_ranks(size, rank):
        assert begin == expected(order, tokens, 0, middle)
        assert end == expected(order, tokens, middle, order.steps, skipped=(middle + 1,))
    assert len(order) % order.batch_size
    empty = [key for key, value in begin.items() if value is None]
    assert empty
    assert all(begin[key.replace("/loss", "/tokens")] == 0 for key in empty)
    json.dumps(begin, allow_nan=False)


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 4), (4, 1)])
def test_a_window_that_a_checkpoint_cuts_is_one_window(data, before, after):
    order, tokens = data

    def first_life(world):
        hook, loop = Breakdown(), loop_of(world, order, tokens)
        hook.pre_train(loop)
        drive(hook, loop, 0, 3)
        return hook.state()

    state = json.loads(json.dumps(on_ranks(before, first_life)[0]))

    def second_life(world):
        hook, loop = Breakdown(), loop_of(world, order, tokens)
        hook.load_state(state)
        hook.pre_train(loop)
        drive(hook, loop, 3, 6)
        return hook.metrics(loop)

    for found in on_ranks(after, second_life):
        assert found == expected(order, tokens, 0, 6)


def test_a_skipped_step_leaves_no_trace(data):
    order, tokens = data

    def rank(world):
        hook, loop = Breakdown(), loop_of(world, order, tokens)
        hook.pre_train(loop)
        drive(hook, loop, 0, 1)
        before = hook.state()
        batch = next(batches(order, tokens, world, MICRO, 1, LanguageModel(tokens)))
        loop.losses_N = torch.full((len(batch.ids),), torch.nan, dtype=torch.float64)
        loop.left_out = torch.tensor(1.0)
        hook.post_step(loop, batch)
        assert hook.state() == before
        return hook.metrics(loop)

    assert on_ranks(2, rank)[1] == expected(order, tokens, 0, 1)
