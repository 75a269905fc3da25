"""Branches of an order: its head, then constant shares of the buckets from what was not read."""

import numpy as np
import pytest

from curriculum.arrange.arrange import ArrangeSettings, open_columns, run
from curriculum.arrange.branch import cells_of, unread, write_branch
from curriculum.audit.audit import audit
from curriculum.order.order import Order, ancestors
from curriculum.preference import Shuffled
from curriculum.preference.base import ScoreCut

FROM, STEPS, SIZE = 20, 5, 16


@pytest.fixture(scope="module")
def settings(tokens_folder, scores_folder):
    return {"tokens": str(tokens_folder), "scores": str(scores_folder), "output": "unused", "workers": 1}


@pytest.fixture(scope="module")
def parent(settings, tmp_path_factory):
    output = str(tmp_path_factory.mktemp("branches") / "order")
    return run(ArrangeSettings(**{**settings, "output": output}, preference=Shuffled(), batch_size=SIZE, seed=3))


def cut(parent, settings, **more):
    preference = ScoreCut(**more)
    return cells_of(parent, open_columns(ArrangeSettings(**settings, preference=preference)), preference)


@pytest.fixture(scope="module")
def cells(parent, settings):
    return cut(parent, settings)


def branch(parent, cells, folder, high, seed=0, steps=STEPS):
    return write_branch(
        parent, cells, unread(parent, cells, FROM, seed), steps, np.array([1 - high, high]), seed, folder
    )


def test_a_branch_begins_as_its_parent_and_goes_on_with_unread_samples(parent, cells, tmp_path):
    found = branch(parent, cells, tmp_path / "b", 0.75)
    cursor = FROM * SIZE
    assert (found.steps, len(found), found.stage_ends) == (FROM + STEPS, cursor + STEPS * SIZE, [FROM + STEPS])
    assert (found[:cursor] == parent[:cursor]).all()
    assert not set(found[cursor:].tolist()) & set(parent[:cursor].tolist())
    assert len(set(found[:].tolist())) == len(found)
    assert ancestors(found) == [parent.fingerprint]
    by_step = [cells.cell_N[found[start : start + SIZE]] for start in range(cursor, len(found), SIZE)]
    assert [int((row == 1).sum()) for row in by_step] == [12] * STEPS  # three quarters of every batch
    result = audit(found, None, parent)
    assert result.sound, [check for check in result.checks if check.sound is False]


def test_the_same_branch_is_reused_and_another_one_rejected(parent, cells, tmp_path):
    first = branch(parent, cells, tmp_path / "b", 0.5)
    assert branch(parent, cells, tmp_path / "b", 0.5).fingerprint == first.fingerprint
    with pytest.raises(ValueError, match="other settings"):
        branch(parent, cells, tmp_path / "b", 0.25)


def test_branches_share_samples_and_seeds_do_not(parent, cells, tmp_path):
    tails = {}
    for name, high, seed in (("half", 0.5, 0), ("all", 1.0, 0), ("again", 1.0, 1)):
        order = branch(parent, cells, tmp_path / name, high, seed)
        tails[name] = {int(sample) for sample in order[FROM * SIZE :] if cells.cell_N[sample] == 1}
    assert tails["half"] < tails["all"]
    assert tails["again"] != tails["all"]


def test_strata_keep_their_shares(parent, settings, tmp_path):
    cells = cut(parent, settings, stratify_by="source")
    found = branch(parent, cells, tmp_path / "b", 1.0)
    assert found.strata == ["all", "easy", "hard"]
    left = unread(parent, cells, FROM, 0).count_C.reshape(2, 2).sum(axis=1)
    tail = cells.cell_N[found[FROM * SIZE :]]
    assert set(tail.tolist()) == {1, 3}
    assert (tail == 1).mean() == pytest.approx(left[0] / left.sum(), abs=1 / len(tail))


def test_shares_of_the_whole_order(cells, parent):
    high = cells.cell_N[parent[:]] == 1
    assert cells.shares == pytest.approx([1 - high.mean(), high.mean()])


def test_too_little_unread_data_is_rejected_with_the_room_there_is(parent, cells):
    left = unread(parent, cells, FROM, 0)
    samples = int(left.count_C[1]) + 16
    said = rf"after step {FROM}, {left.count_C[1]:,} samples of the bucket high have not been read.*room for about"
    with pytest.raises(ValueError, match=said):
        left.needed(cells, samples, np.array([0.0, 1.0]))
    assert left.needed(cells, int(left.count_C[1]), np.array([0.0, 1.0])).tolist() == [0, left.count_C[1]]


def test_an_order_knows_its_branch(parent, cells, tmp_path):
    found = Order.open(branch(parent, cells, tmp_path / "b", 0.25).folder)
    assert [bucket.name for bucket in found.buckets] == ["all", f"low@{FROM}", f"high@{FROM}"]
    assert found.manifest.config["preference"]["shares"] == [0.75, 0.25]
