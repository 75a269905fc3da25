import json
import re

import pytest

from tests.train.report.conftest import records_of as metrics_of
from train.report.arms import read_arm
from train.report.fairness.differences import KEYS, NOTHING, ROUNDING, UNFAIR, differences
from train.report.fairness.warnings import warnings as warnings_of
from train.resume.identity import binding, free


def warnings(arms):
    return warnings_of(arms, differences(arms))


def runs(make_run, **changed):
    return [read_arm("shuffled", [str(make_run("shuffled"))]), read_arm("pdpc", [str(make_run("pdpc", **changed))])]


def test_arms_that_differ_in_the_order_only_give_no_warning(make_run):
    pair = runs(make_run)
    assert [(item.what, item.kind) for item in differences(pair)] == [
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
    assert (first.what, first.kind, first.setting) == (key, "unfair", True)
    assert key in warnings(pair)[0]
    assert "only the order differs" in warnings(pair)[0]


def test_how_the_work_is_split_is_shown_but_does_not_warn(make_run):
    pair = runs(make_run, config={"micro_batch_size": 4, "zero": {"stage": 2}})
    kinds = {item.what: item.kind for item in differences(pair)}
    assert kinds["micro_batch_size"] == kinds["zero.stage"] == "rounding"
    assert warnings(pair) == []


def test_a_moved_artifact_with_the_same_fingerprint_is_the_same(make_run):
    data = {"tokens": "elsewhere", "order": "orders/pdpc", "scores": "scores"}
    assert warnings(runs(make_run, config={"data": data})) == []


def test_where_arms_start_from_is_compared_by_content(make_run):
    base = {"tokens": "a" * 32, "order": "o", "tokenizer": "t" * 32, "scores": "c" * 32}
    first, second = ({**base, "init": digit * 32} for digit in "98")
    number = iter(range(100))

    def unlike(*starts):
        arms = []
        for name, seeds in zip(("shuffled", "pdpc"), starts, strict=True):
            folders = []
            for seed, prints in enumerate(seeds):
                at = next(number)
                config = {"init": f"folder{at}", "seed": seed}
                own = {**prints, "order": str(at)}
                folders.append(make_run(name, folder=str(at), config=config, fingerprints=own, seed=seed))
            arms.append(read_arm(name, list(map(str, folders))))
        assert not [text for text in warnings(arms) if "seeds of" in text]
        return [item.what for item in differences(arms) if item.kind == "unfair"]

    assert unlike([first], [first]) == []
    assert unlike([first], [base]) == ["initial weights"]
    assert unlike([first, second], [first, second]) == []
    assert unlike([first, second], [first, first]) == ["initial weights"]


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
        records = metrics_of(arm)
        records[-1]["val/loss"] += 0.001 * place
        places.append(str(make_run(arm, records, folder=f"{arm}-{place}", **kept)))
    return read_arm(arm, places)


def test_seeds_that_differ_in_the_seed_only_give_no_warning(make_run):
    pair = [seeds(make_run, arm, [0, 1, 2]) for arm in ("shuffled", "pdpc")]
    assert warnings(pair) == []
    assert "seed" not in {item.what for item in differences(pair)}
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
    arm = seeds(make_run, "pdpc", [1, 2], **changed)
    if "arranged" in changed:
        arm.runs[0].info["arranged"]["preference"] = {"name": "pdpc"}
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


def test_every_setting_is_judged_by_whether_it_binds_a_run():
    by_content = {"data.tokens", "data.scores", "benchmarks.task_paths"}
    for name in {*free(), *binding()} - by_content - {"arm", "output", "data.order", "accept_scores"}:
        kind = next(kind for pattern, kind, _ in KEYS if re.fullmatch(pattern, name))
        assert (kind in (ROUNDING, NOTHING)) == (name in free()), name


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"zero": {"reduce_in": "bf16"}}, "zero.reduce_in"),
        ({"guards": {"spike": "rollback"}, "checkpoints": {"save_every": 7}}, "checkpoints.save_every"),
        ({"processes": 4, "zero": {"reduce_in": "bf16"}}, "processes"),
        ({"precision": "fp32"}, "precision"),
        ({"benchmarks": {"limit": 10}}, "benchmarks.limit"),
        ({"heldout": {"max_samples": 10}}, "heldout.max_samples"),
        ({"objective": "other"}, "objective"),
    ],
)
def test_what_changes_more_than_last_digits_is_unfair(make_run, config, key):
    found = {item.what: item for item in differences(runs(make_run, config=config))}
    assert found[key].kind == UNFAIR
    assert found[key].explains


def rescaled(records, factor):
    """The records of a run that takes `factor` times as many steps for the same tokens."""
    return [record | {"step": record["step"] * factor} for record in records]


@pytest.mark.parametrize("recorded", [True, False])
def test_another_batch_size_is_unfair_though_it_comes_with_the_order(make_run, metrics, recorded):
    small = {"batch_sizes": [[0, 4]], "steps": 160} if recorded else dict.fromkeys(("batch_sizes", "sample_set"))
    pair = [
        read_arm("shuffled", [str(make_run("shuffled", arranged={} if recorded else small))]),
        read_arm("pdpc", [str(make_run("pdpc", rescaled(metrics("pdpc"), 4), arranged=small))]),
    ]
    found = {item.what: item for item in differences(pair) if item.kind == UNFAIR}
    if recorded:
        assert found["batch size"].values == {"shuffled": "16", "pdpc": "4"}
        assert found["steps planned"].values == {"shuffled": "40", "pdpc": "160"}
        assert "tokens per step" not in found
    else:
        assert found["tokens per step"].values == {"shuffled": "100", "pdpc": "25"}
    text = warnings(pair)[0]
    assert text.startswith("The arms differ in more than the order: ")
    assert ("batch size" if recorded else "tokens per step") in text


@pytest.mark.parametrize(
    ("arranged", "what", "value"),
    [
        ({"batch_sizes": [[0, 16], [20, 32]], "steps": 30}, "batch size", "16, then 32 from step 21"),
        ({"samples": 480, "different_samples": 480, "left_out": 160}, "samples", "480, 160 left out, 0 repeated"),
        ({"sample_set": "f" * 16}, "which samples", f"those of hash {'f' * 16}"),
        ({"seq_len": 32}, "sequence length", "32"),
    ],
)
def test_what_an_order_holds_is_compared(make_run, arranged, what, value):
    pair = runs(make_run, arranged=arranged)
    found = {item.what: item for item in differences(pair)}
    assert (found[what].kind, found[what].values["pdpc"]) == (UNFAIR, value)
    assert what in warnings(pair)[0]


def test_another_learning_rate_at_the_same_tokens_is_unfair(make_run, metrics):
    def with_rate(rate):
        return [record | {"optim/lr": rate(record["tokens"])} for record in metrics("pdpc")]

    shuffled = str(make_run("shuffled", with_rate(lambda tokens: 1e-3 * (1 - tokens / 8000))))
    same, other = (
        str(make_run("pdpc", with_rate(rate), folder=name))
        for name, rate in (
            ("same", lambda tokens: 1.01e-3 * (1 - tokens / 8000)),
            ("other", lambda tokens: 1e-3 * (1 - tokens / 6000)),
        )
    )
    arms = read_arm("shuffled", [shuffled]), read_arm("pdpc", [other])
    (rate,) = (item for item in differences(arms) if item.what == "learning rate")
    assert rate.kind == UNFAIR
    assert rate.values["shuffled"].endswith("0.0005")
    assert rate.values["pdpc"].endswith("0.00033")
    assert "learning rate" in warnings(arms)[0]
    assert warnings([arms[0], read_arm("pdpc", [same])]) == []


def skipped(folder, steps):
    lines = [{"step": step, "reason": "spike", "tokens": 100} for step in steps]
    (folder / "skipped.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_steps_that_guards_skipped_are_counted_and_warned_about(make_run):
    shuffled, pdpc = make_run("shuffled"), make_run("pdpc")
    skipped(pdpc, range(1, 16))
    pair = [read_arm("shuffled", [str(shuffled)]), read_arm("pdpc", [str(pdpc)])]
    (lost,) = (item for item in differences(pair) if item.what == "steps without an update")
    assert lost.values == {"shuffled": "none", "pdpc": "15 of 40 steps (38%), 1.50k of 4.00k tokens"}
    assert lost.kind == UNFAIR
    (text,) = warnings(pair)
    assert "did not move the weights: pdpc 15 of 40 steps (38%)" in text
    assert "different numbers of tokens" in text
    skipped(shuffled, range(1, 16))
    (text,) = warnings([read_arm("shuffled", [str(shuffled)]), pair[1]])
    assert "have learnt from fewer tokens than they have read" in text


def test_skipped_steps_count_though_their_file_is_gone(make_run, metrics):
    records = metrics("pdpc")
    train = [record for record in records if record["kind"] == "train"]
    train[-1] |= {"guard/not_finite": 2.0, "guard/spike": 8.0}
    pair = [read_arm("shuffled", [str(make_run("shuffled"))]), read_arm("pdpc", [str(make_run("pdpc", records))])]
    (lost,) = (item for item in differences(pair) if item.what == "steps without an update")
    assert lost.values["pdpc"] == "10 of 40 steps (25%)"


def test_changes_in_mid_run_are_compared(make_run):
    change = {"field": "optimizer.lr", "old": 1e-3, "new": 5e-3}
    common = {"order": "o" * 32, "world_size": 2, "versions": {"torch": "2.13.0"}, "code": "c" * 32}
    lives = [common | {"step": 0}, common | {"step": 20, "world_size": 4, "accepted": [change]}]
    pair = runs(make_run, lives=lives)
    pair[0].runs[0].info["lives"] = [common | {"step": 0}]
    found = {item.what: item for item in differences(pair)}
    changes = found["changes accepted in mid-run"]
    assert changes.values == {"shuffled": "none", "pdpc": "optimizer.lr 0.001 to 0.005 at step 20"}
    assert changes.kind == UNFAIR
    assert found["processes"].values["pdpc"] == "2, then 4 from step 21"
    assert "changes accepted in mid-run" in warnings(pair)[0]


def test_an_order_that_changes_in_mid_run_is_shown(make_run):
    def attempt(step, order, preference):
        return {"step": step, "order": order * 32, "arranged": {"preference": {"name": preference, "score": "pd"}}}

    lives = [attempt(0, "o", "pdpc"), attempt(20, "p", "tilt")]
    pair = runs(make_run, lives=lives, arranged={"batch_sizes": [[0, 16], [20, 32]], "steps": 30, "replanned_at": 20})
    pair[0].runs[0].info["lives"] = [attempt(0, "s", "shuffled")]
    found = {item.what: item for item in differences(pair)}
    assert found["preference"].values["pdpc"] == "pdpc (score pd), then tilt (score pd) from step 21"
    assert found["order changed in mid-run"].values == {"shuffled": "no", "pdpc": f"{'p' * 12} from step 21"}
    assert found["preference"].kind == found["order changed in mid-run"].kind == "order"
    assert "batch size" in warnings(pair)[0]


def test_an_attempt_that_was_repeated_leaves_no_trace(make_run):
    lives = [{"step": 0, "code": "a" * 32}, {"step": 20, "code": "b" * 32}, {"step": 20, "code": "a" * 32}]
    pair = runs(make_run, lives=lives)
    pair[0].runs[0].info["lives"] = lives[:1]
    assert "code" not in {item.what for item in differences(pair)}


def test_a_run_whose_first_attempts_are_forgotten_is_named(make_run):
    pair = runs(make_run, lives=[{"step": 20}])
    assert any("are on record from step 20 on" in text for text in warnings(pair))


def test_what_is_known_of_one_arm_only_is_said(make_run):
    pair = runs(make_run, arranged=dict.fromkeys(("batch_sizes", "sample_set")), fingerprints={"validation": None})
    (text,) = (text for text in warnings(pair) if text.startswith("Not known for every arm"))
    for what in ("batch size", "samples", "which samples", "held-out text"):
        assert what in text


def test_an_edited_config_does_not_hide_a_difference(make_run):
    pair = runs(make_run)
    folder = make_run("pdpc", folder="edited", identity={"optimizer": {"lr": 5.0}})
    edited = [pair[0], read_arm("pdpc", [str(folder)])]
    assert differences(edited)[0].what == "optimizer.lr"
    found = warnings(edited)
    assert any(text.startswith("config.json of pdpc contradicts its run.json") for text in found)
    assert any("optimizer.lr 0.001, in run.json 5.0" in text for text in found)
    (folder / "config.json").unlink()
    gone = [pair[0], read_arm("pdpc", [str(folder)])]
    assert differences(gone)[0].what == "optimizer.lr"
    assert any("Only the settings that bind a run are known for pdpc" in text for text in warnings(gone))


def test_a_run_json_that_was_edited_is_rejected(make_run):
    folder = make_run("pdpc", checksum="0" * 32)
    with pytest.raises(ValueError, match="does not match its own checksum"):
        read_arm("pdpc", [str(folder)])


def test_a_stage_that_was_evaluated_with_other_task_files_is_named(make_run, metrics):
    records = metrics("pdpc")
    records[-1]["stage/task_files"] = "x" * 32
    pair = [read_arm("shuffled", [str(make_run("shuffled"))]), read_arm("pdpc", [str(make_run("pdpc", records))])]
    assert any("Stage 4 of pdpc was evaluated again with other task files" in text for text in warnings(pair))


def test_one_arm_with_the_baselines_order_is_named(make_run):
    arms = [read_arm(name, [str(make_run(name))]) for name in ("shuffled", "pdpc")]
    prints = {"order": f"{'shuffled':b<32}"}
    arms.append(read_arm("copy", [str(make_run("copy", fingerprints=prints))]))
    assert "copy used an order of shuffled: there is no curriculum to compare." in warnings(arms)


def test_another_code_of_the_same_version_is_unfair(make_run):
    pair = runs(make_run, lives=[{"step": 0, "code": "a" * 32}])
    pair[0].runs[0].info["lives"] = [{"step": 0, "code": "b" * 32}]
    assert "code" in warnings(pair)[0]
