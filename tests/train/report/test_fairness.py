import re

import pytest

from train.report.arms import read_arm
from train.report.fairness import differences, warnings


def runs(make_run, **changed):
    return [read_arm("shuffled", [str(make_run("shuffled"))]), read_arm("pdpc", [str(make_run("pdpc", **changed))])]


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
def test_any_other_difference_is_a_warning_with_the_key(make_run, config, key):
    pair = runs(make_run, config=config)
    first = differences(pair)[0]
    assert (first.key, first.kind) == (key, "unfair")
    assert key in warnings(pair)[0]
    assert "only the order differs" in warnings(pair)[0]


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


def test_unknown_settings_are_reported_as_unknown(make_run):
    folder = make_run("pdpc")
    (folder / "config.json").unlink()
    pair = [read_arm("shuffled", [str(make_run("shuffled"))]), read_arm("pdpc", [str(folder)])]
    assert differences(pair) == []
    assert any("The settings of pdpc are unknown" in sentence for sentence in warnings(pair))


def seeds(make_run, arm, numbers, **changed):
    """Return an arm of runs with these seeds; `changed` applies to the last one."""
    places = []
    for place, seed in enumerate(numbers):
        more = changed if place == len(numbers) - 1 else {}
        prints = {"tokens": "a" * 32, "order": f"{arm}{place}", "tokenizer": "t" * 32, "scores": "c" * 32}
        config = {"seed": seed, **more.get("config", {})}
        kept = {"seed": seed, "fingerprints": prints, **more, "config": config}
        places.append(str(make_run(arm, folder=f"{arm}-{place}", **kept)))
    return read_arm(arm, places)


def test_seeds_that_differ_in_the_seed_only_give_no_warning(make_run):
    pair = [seeds(make_run, arm, [0, 1, 2]) for arm in ("shuffled", "pdpc")]
    assert warnings(pair) == []
    assert "seed" not in {item.key for item in differences(pair)}
    assert [run.name for run in pair[1].runs] == ["pdpc seed 0", "pdpc seed 1", "pdpc seed 2"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"config": {"optimizer": {"lr": 5.0}}},
            r"seeds of pdpc differ in more than the seed: optimizer\.lr\. .*repeats",
        ),
        ({"arranged": {"preference": {"name": "sorted"}}}, "their orders use different preferences"),
        ({"parameters": 7}, "differ in size"),
    ],
)
def test_other_differences_between_seeds_of_an_arm_are_warnings(make_run, changed, words):
    more = {"arranged": {"preference": {"name": "pdpc"}}} if "arranged" in changed else {}
    arm = seeds(make_run, "pdpc", [1, 2], **changed)
    if more:
        arm.runs[0].info.update(more)
    (found,) = warnings([seeds(make_run, "shuffled", [1, 2]), arm])
    assert re.search(words, found)


def test_a_repeated_seed_does_not_count_as_a_second_seed(make_run):
    found = warnings([seeds(make_run, "shuffled", [1, 2]), seeds(make_run, "pdpc", [2, 2])])
    assert any("Seeds of pdpc are given more than once (2)" in sentence for sentence in found)


def test_arms_with_different_seeds_are_reported_as_unpaired(make_run):
    found = warnings([seeds(make_run, "shuffled", [1, 2]), seeds(make_run, "pdpc", [1, 3])])
    assert found == [
        "Not all arms have the seeds of shuffled (shuffled 1, 2; pdpc 1, 3): pdpc is compared without seed pairing."
    ]


def test_seeds_that_share_an_order_are_a_warning(make_run):
    prints = {"tokens": "a" * 32, "order": "pdpc0", "tokenizer": "t" * 32, "scores": "c" * 32}
    (found,) = warnings([seeds(make_run, "shuffled", [1, 2]), seeds(make_run, "pdpc", [1, 2], fingerprints=prints)])
    assert "The seeds of pdpc share one order" in found
