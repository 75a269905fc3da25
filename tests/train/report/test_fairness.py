import re

import pytest

from train.report.fairness import differences, warnings
from train.report.records import read_run


def runs(make_run, **changed):
    return [read_run("shuffled", make_run("shuffled")), read_run("pdpc", make_run("pdpc", **changed))]


def test_arms_that_differ_in_the_order_only_give_no_warning(make_run):
    pair = runs(make_run)
    assert [(item.key, item.kind) for item in differences(pair)] == [
        ("arm", "order"),
        ("data.order", "order"),
        ("output", "order"),
    ]
    assert warnings(pair) == []


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"seed": 2}, "seed"),
        ({"schedule": {"name": "constant", "final_ratio": 0.33}}, "schedule.name"),
        ({"model": {"layers": 3, "width": 64}}, "model.layers"),
        ({"extra": True}, "extra"),
    ],
)
def test_any_other_difference_is_a_warning_that_names_the_key(make_run, config, key):
    pair = runs(make_run, config=config)
    first = differences(pair)[0]
    assert (first.key, first.kind) == (key, "unfair")
    assert key in warnings(pair)[0]
    assert "differs in the order only" in warnings(pair)[0]


def test_how_the_work_is_split_is_shown_but_does_not_warn(make_run):
    pair = runs(make_run, config={"micro_batch_size": 4, "zero": {"stage": 2}})
    kinds = {item.key: item.kind for item in differences(pair)}
    assert kinds["micro_batch_size"] == kinds["zero.stage"] == "rounding"
    assert warnings(pair) == []


def test_a_moved_artifact_with_the_same_fingerprint_is_the_same(make_run):
    data = {"tokens": "elsewhere", "order": "orders/pdpc", "scores": "scores"}
    assert warnings(runs(make_run, config={"data": data})) == []


@pytest.mark.parametrize(
    ("info", "words"),
    [
        (
            {"fingerprints": {"tokens": "x", "order": "o", "tokenizer": "t" * 32, "scores": "c" * 32}},
            "the tokens differ",
        ),
        ({"seed": 7}, r"different seeds \(1, 7\)"),
        ({"parameters": 5}, "differ in size"),
        ({"world_size": 4}, "different numbers of processes"),
        ({"versions": {"pdpc": "0.2.0", "torch": "2.13.0", "python": "3.11.7"}}, "different versions of pdpc"),
    ],
)
def test_recorded_facts_that_differ_are_warnings(make_run, info, words):
    found = warnings(runs(make_run, **info))
    assert len(found) == 1
    assert re.search(words, found[0])


def test_the_same_order_in_both_arms_is_a_warning(make_run):
    prints = {"tokens": "a" * 32, "order": f"{'shuffled':b<32}", "tokenizer": "t" * 32, "scores": "c" * 32}
    assert warnings(runs(make_run, fingerprints=prints)) == [
        "All arms used the same order: there is no curriculum to compare."
    ]


def test_unknown_settings_are_said_to_be_unknown(make_run):
    folder = make_run("pdpc")
    (folder / "config.json").unlink()
    pair = [read_run("shuffled", make_run("shuffled")), read_run("pdpc", folder)]
    assert differences(pair) == []
    assert any("Whether pdpc had the same settings is not known" in sentence for sentence in warnings(pair))
