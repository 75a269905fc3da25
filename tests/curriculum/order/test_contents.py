"""What an order holds: two orders of the same samples have the same contents, however they are arranged."""

import numpy as np
import pytest

from curriculum.arrange import kernels
from curriculum.arrange.arrange import ArrangeSettings, run
from curriculum.arrange.replan import ReplanSettings
from curriculum.arrange.replan import run as replan
from curriculum.order.contents import EVERY, contents_of, hash_of_set
from curriculum.preference import Pdpc, Shuffled, Sorted

PLAIN = Pdpc(stratify_by=None)


@pytest.fixture
def arranged(tokens_folder, scores_folder, tmp_path):
    def make(name, preference, **more):
        given = {"tokens": str(tokens_folder), "scores": str(scores_folder), "output": str(tmp_path / name)}
        return run(ArrangeSettings(**given, preference=preference, batch_size=16, **more))

    return make


def test_the_hash_of_a_set_ignores_the_order_but_not_repeats():
    ids = np.random.default_rng(0).integers(0, 1 << 20, 40_000).astype(np.uint32)
    assert hash_of_set(ids) == hash_of_set(np.sort(ids)) == int(kernels.hash_of_set(ids))
    assert hash_of_set(ids.astype(np.int64)) == hash_of_set(ids)
    assert hash_of_set(np.array([0, 0, 5])) != hash_of_set(np.array([0, 5, 5]))
    assert hash_of_set(np.array([0])) != hash_of_set(np.zeros(0, np.int64)) == 0


def test_orders_of_every_sample_have_the_same_contents(arranged):
    first, second = contents_of(arranged("one", Shuffled())), contents_of(arranged("other", Sorted(), seed=3))
    assert first == second
    assert first["sample_set"] == EVERY
    assert first["batch_sizes"] == [[0, 16]]


def test_subsets_tell_whether_they_are_the_same(arranged):
    some = {"max_tokens": 2000}
    first, same = (contents_of(arranged(name, kind, **some)) for name, kind in (("a", Shuffled()), ("b", PLAIN)))
    other = contents_of(arranged("c", Shuffled(), seed=1, **some))
    assert first == same
    assert other["samples"] == first["samples"]
    assert other["sample_set"] not in (first["sample_set"], EVERY, None)


def test_what_is_left_out_and_repeated_is_part_of_it(arranged, tokens_folder, scores_folder, tmp_path):
    order = arranged("uses", Pdpc(stratify_by=None, uses={"low": 0, "high": 2}))
    assert contents_of(order)["sample_set"] == f"{hash_of_set(order[:]):016x}"
    given = {"tokens": str(tokens_folder), "scores": str(scores_folder), "output": str(tmp_path / "child")}
    child = replan(ReplanSettings(order=str(order.folder), from_step=2, preference=PLAIN, **given))
    assert contents_of(child)["sample_set"] == contents_of(order)["sample_set"]
