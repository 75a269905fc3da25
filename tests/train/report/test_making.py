import csv
import io
import json
import math
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from train.report import ReportSettings, make, run
from train.report.intervals import Interval


def quiet():
    return Console(file=io.StringIO(), width=120)


def made(runs, folder, **more):
    console = quiet()
    path = run(ReportSettings(runs=runs, output=str(folder / "out" / "report.html"), **more), console)
    return path, console.file.getvalue()


def test_page_json_and_csv_are_written_together_and_agree(comparison, tmp_path):
    path, _ = made(comparison, tmp_path)
    assert sorted(file.name for file in path.parent.iterdir()) == ["report.csv", "report.html", "report.json"]
    value = json.loads(path.with_suffix(".json").read_text("utf-8"))
    with path.with_suffix(".csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(value["gains"])
    for row, whole in zip(table, value["gains"], strict=True):
        assert row["measure"] == whole["measure"]
        for key in ("difference", "low", "high", "change_low", "seeds", "baseline_seeds"):
            assert row[key] == ("" if whole[key] is None else str(whole[key])), key
        assert (row["verdict"], row["method"]) == (whole["verdict"], whole["method"])
    last = [row for row in value["gains"] if row["measure"] == "val/loss" and row["arm"] == "pdpc"][-1]
    assert (last["stage"], last["tokens"], last["verdict"]) == (4, 4000, "no error bar")
    assert last["difference"] == pytest.approx(0.1)
    assert value["headlines"][0] in path.read_text("utf-8")
    assert value["arms"]["pdpc"]["finished"] is True
    assert [source["name"] for source in value["pd_by_source"]["sources"]] == ["code", "help", "licences", "prose"]


def test_a_cell_of_the_csv_is_no_formula_and_a_number_stays_one(make_run, metrics, tmp_path):
    runs = {}
    for arm, loss in (("shuffled", 2.0), ("pdpc", 1.5)):
        records = [dict(record) for record in metrics(arm)]
        for record in records:
            if record["kind"] == "stage":
                record |= {"val/source/=cmd()/loss": loss, "val/source/@\udcff\x1b[2J/loss": loss}
        runs[arm] = str(make_run(arm, records))
    path, printed = made(runs, tmp_path)
    with path.with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert {"'=cmd()", "'@\\udcff\\x1b[2J"} <= {row["label"] for row in table}
    assert any(row["difference"] == "-0.5" for row in table)
    assert not [value for row in table for value in row.values() if value.startswith(("=", "+", "@", "\t", "\r"))]
    assert "\x1b" not in printed + path.read_text("utf-8")


def test_figures_are_written_on_request(comparison, tmp_path):
    path, _ = made(comparison, tmp_path, figures=True)
    names = {file.name for file in (path.parent / "report_figures").iterdir()}
    assert {"train-loss.svg", "plan-1.svg", "pd-by-source.svg"} <= names


def test_rerunning_the_report_gives_the_same_files_and_no_others(comparison, tmp_path):
    path, _ = made(comparison, tmp_path)
    first = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    made(comparison, tmp_path)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == first


def test_the_plan_rises_and_both_orders_hold_the_same_samples(comparison):
    report = make(ReportSettings(runs=comparison))
    assert report.exposures["pdpc"].content == report.exposures["shuffled"].content
    high = report.exposures["pdpc"].high
    assert high is not None
    assert high[0] < 0.1 < 0.9 < high[-1]
    assert report.plans["shuffled"].buckets == ["all"]
    assert report.preferences is not None
    assert report.preferences.explained > 0.5
    assert report.warnings[:-1] == []
    assert report.missing == {}


def test_orders_of_other_samples_are_a_warning(comparison, tmp_path):
    from curriculum.arrange import arrange

    order = arrange.run(
        arrange.ArrangeSettings(
            tokens=str(tmp_path / "tokens"), output=str(tmp_path / "part"), batch_size=16, max_tokens=8000
        )
    )
    rewrite(comparison["shuffled"], order)
    assert any(
        "do not hold the same samples" in sentence for sentence in make(ReportSettings(runs=comparison)).warnings
    )


def rewrite(folder, order):
    path = Path(folder) / "run.json"
    info = json.loads(path.read_text())
    info["paths"]["order"], info["fingerprints"]["order"] = str(order.folder), order.fingerprint
    path.write_text(json.dumps(info))


def test_seeds_intervals_and_verdicts_are_in_json_and_csv(with_seeds, tmp_path):
    path, _ = made(with_seeds(shuffled=3, pdpc=3), tmp_path)
    value = json.loads(path.with_suffix(".json").read_text("utf-8"))
    assert value["format_version"] == 3
    rows = {(row["measure"], row["arm"], row["stage"]): row for row in value["gains"]}
    row = rows["val/loss", "pdpc", 4]
    assert (row["seeds"], row["baseline_seeds"], row["paired_seeds"], row["verdict"]) == (3, 3, True, "worse")
    assert row["method"] == row["change_method"] == "items and seeds"
    assert row["low"] < row["difference"] < row["high"]
    assert row["change_low"] < row["change"] < row["change_high"] < 0
    assert rows["bench/avg", "pdpc", 4]["method"] == "items and seeds"
    seeds = [entry for entry in value["seed_values"] if (entry["measure"], entry["arm"]) == ("val/loss", "pdpc")]
    assert len(seeds) == 4
    assert sum(seeds[-1]["values"]) / 3 == pytest.approx(row["value"])
    assert [run["seed"] for run in value["arms"]["pdpc"]["runs"]] == [0, 1, 2]
    with path.with_suffix(".csv").open(newline="") as file:
        table = [line for line in csv.DictReader(file) if (line["measure"], line["arm"]) == ("val/loss", "pdpc")]
    assert [float(line["low"]) for line in table] == [rows["val/loss", "pdpc", stage]["low"] for stage in (1, 2, 3, 4)]


def test_a_broken_file_of_answers_is_named(with_seeds, tmp_path):
    runs = with_seeds(shuffled=1, pdpc=1)
    file = Path(runs["pdpc"][0]) / "evaluations" / "step_00000020.parquet"
    file.write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"step_00000020\.parquet cannot be read"):
        made(runs, tmp_path)


def test_a_replaced_order_is_not_shown(comparison, tmp_path):
    shutil.rmtree(tmp_path / "pdpc")
    shutil.copytree(tmp_path / "shuffled", tmp_path / "pdpc")
    report = make(ReportSettings(runs=comparison))
    assert "is not the order that pdpc used" in report.missing["order/pdpc"]
    assert report.plans["pdpc"].origin == "metrics"
    assert "pdpc" not in report.exposures


def test_a_torn_artifact_removes_only_its_own_section(comparison, tmp_path):
    (tmp_path / "scores" / "train.parquet").write_bytes(b"torn")
    report = make(ReportSettings(runs=comparison))
    assert "cannot be opened" in report.missing["scores"]
    assert report.preferences is None
    assert report.exposures["pdpc"].high is None
    assert report.exposures["pdpc"].sources is not None


def test_an_unfinished_run_is_shown_up_to_its_last_record(metrics, make_run, tmp_path):
    half = make_run("pdpc", metrics("pdpc", stages=2), status="running")
    with (half / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "tra')
    path, printed = made({"shuffled": str(make_run("shuffled")), "pdpc": str(half)}, tmp_path)
    value = json.loads(path.with_suffix(".json").read_text())
    assert value["headlines"][0].startswith("So far, at 2.00k tokens (1 seed each), pdpc is 0.1000 nats per token")
    notes = " ".join(value["notes"])
    assert "pdpc: the run is not finished (status: not running (it was killed or failed" in notes
    assert "is torn and was ignored" in notes
    assert "pdpc: no evaluation at 3000, 4000 tokens; nothing is compared there." in notes
    assert "not evaluated" in path.read_text("utf-8")
    assert "is torn and was ignored" in printed.replace("\n", " ")


def test_nothing_is_written_when_the_runs_cannot_be_compared(metrics, make_run, tmp_path):
    runs = {"shuffled": str(make_run("shuffled")), "pdpc": str(make_run("pdpc", metrics("pdpc", 1, stage_tokens=77)))}
    with pytest.raises(ValueError, match="no stage record in common"):
        made(runs, tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_failed_benchmark_is_noted_with_its_message(metrics, make_run):
    records = metrics("pdpc")
    records[-1] = {k: v for k, v in records[-1].items() if "echo" not in k} | {"bench/echo/error": "no data"}
    report = make(ReportSettings(runs={"shuffled": str(make_run("shuffled")), "pdpc": str(make_run("pdpc", records))}))
    assert report.notes[1:] == ["stage 4 of pdpc failed in echo (no data)"]
    assert "1 failed" in report.headlines[-1]


def test_tokens_that_differ_by_padding_are_noted(metrics, make_run):
    moved = [record | {"tokens": record["tokens"] + 1} for record in metrics("pdpc")]
    report = make(ReportSettings(runs={"shuffled": str(make_run("shuffled")), "pdpc": str(make_run("pdpc", moved))}))
    assert len(report.gains.points) == 4
    assert any("differ by up to 0.1%" in note for note in report.notes)


def test_values_that_are_not_finite_become_null_in_the_json(metrics, make_run, tmp_path):
    records = metrics("pdpc")
    records[-1]["val/loss"] = float("inf")
    runs = {"shuffled": str(make_run("shuffled")), "pdpc": str(make_run("pdpc", records))}
    path, _ = made(runs, tmp_path)
    value = json.loads(path.with_suffix(".json").read_text(), parse_constant=pytest.fail)
    last = [row for row in value["gains"] if row["measure"] == "val/loss" and row["arm"] == "pdpc"][-1]
    assert last["value"] is None
    assert (
        value["headlines"][0]
        == "After 4.00k tokens, pdpc cannot be compared with shuffled on held-out text: a value is missing."
    )


def test_the_top_says_what_was_trained_on_what_and_whether_the_mix_moves(comparison, tmp_path):
    path, _ = made(comparison, tmp_path)
    value = json.loads(path.with_suffix(".json").read_text("utf-8"))
    assert value["about"]["Model"] == "123,456 parameters, 2 layers, 64 wide"
    assert "from 4 sources (" in value["about"]["Data"]
    moving, still = value["source_mix"]  # PD follows the source here, and this pdpc is not stratified
    assert moving.startswith("In pdpc the mix of sources moves with the order: the share of prose is ")
    assert still == "In shuffled the mix of sources stays the same over the whole run."
    page = path.read_text("utf-8")
    assert page.index("123,456 parameters") < page.index("What is PD?") < page.index('id="curves"')
    assert "1 &minus; exp(loss_strong &minus; loss_weak)" in page
    assert "Q3 low PD, high PPL" in page


def test_what_score_found_comes_first(make_run, tmp_path):
    found = {"unusable": ["slice 'train': the strong model is worse than the weak one"], "others": ["x was seen"]}
    runs = {"shuffled": str(make_run("shuffled")), "pdpc": str(make_run("pdpc", score_findings=found, seed=2))}
    warnings = make(ReportSettings(runs=runs)).warnings
    assert warnings[0].startswith("The scores are unusable")
    assert "the strong model is worse than the weak one" in warnings[0]
    assert warnings[1] == "About the scores: x was seen."
    assert len(warnings) > 2
    path, shown = made(runs, tmp_path)
    assert shown.index("The scores are unusable") < shown.index("different seeds")
    page = path.read_text("utf-8")
    assert page.index("Before you believe it") < page.index("The scores are unusable") < page.index("different seeds")


def test_an_arm_that_has_learnt_nothing_is_named(make_run):
    runs = {
        name: str(make_run(name, decoder={"vocab_size": size})) for name, size in (("shuffled", 50), ("pdpc", 5000))
    }
    warnings = make(ReportSettings(runs=runs)).warnings
    (text,) = [text for text in warnings if "learnt next to nothing" in text]
    assert text.startswith("shuffled is no better than guessing: 4.000 nats per token")
    assert "after 40 steps at a learning rate of 0.001" in text


@pytest.mark.parametrize("name", ["report.html", "report.csv", "report.json"])
def test_a_report_does_not_replace_a_file_of_something_else(comparison, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(ValueError, match=rf"{name} exists and was not written by this command: choose a new file"):
        made(comparison, tmp_path)
    assert {file.name: file.read_text() for file in (tmp_path / "out").iterdir()} == {name: "mine"}


def test_figures_are_not_written_among_other_files(comparison, tmp_path):
    (tmp_path / "out" / "report_figures").mkdir(parents=True)
    (tmp_path / "out" / "report_figures" / "photo.png").touch()
    with pytest.raises(ValueError, match=r"report_figures contains other files \(photo.png\)"):
        made(comparison, tmp_path, figures=True)


def test_an_average_without_a_task_says_so_wherever_it_stands(metrics, make_run, tmp_path):
    """The arms are equal in `hard`; `easy` failed in one, which lowers its own average by 27 points."""
    runs = {}
    for arm in ("shuffled", "pdpc"):
        records = metrics(arm)
        whole = {"bench/hard/acc": 0.3025, "bench/easy/acc": 0.8425, "bench/avg": 0.5725}
        partly = {"bench/hard/acc": 0.3025, "bench/easy/error": "timed out", "bench/avg": 0.3025}
        kept = {key: value for key, value in records[-1].items() if "bench" not in key}
        runs[arm] = str(make_run(arm, [*records[:-1], kept | (whole if arm == "shuffled" else partly)]))
    path, printed = made(runs, tmp_path)
    row = final(path, "bench/avg")
    assert (row["difference"], row["verdict"]) == (0.0, "equal")
    assert row["note"] == "over 1 of 2 tasks, without easy; one seed per arm"
    assert (row["compared_value"], row["baseline_value"]) == (0.3025, 0.3025)
    page = path.read_text("utf-8")
    assert page.count("over 1 of 2 tasks, without easy") == 2, "at the top and in the table of stages"
    assert "\u221227" not in page
    assert "over 1 of 2 tasks, without easy" in " ".join(printed.split())


def final(path, measure):
    rows = json.loads(path.with_suffix(".json").read_text("utf-8"))["gains"]
    return [row for row in rows if (row["measure"], row["arm"]) == (measure, "pdpc")][-1]


def test_one_seed_per_arm_has_no_verdict_anywhere(with_seeds, tmp_path):
    path, printed = made(with_seeds(shuffled=1, pdpc=1), tmp_path, seed_deviation=0.03)
    value = json.loads(path.with_suffix(".json").read_text("utf-8"))
    row = final(path, "val/loss")
    assert (row["method"], row["verdict"], row["note"]) == ("items", "no verdict", "one seed per arm")
    assert 0 < row["low"] < row["high"]
    assert {row["verdict"] for row in value["gains"]} <= {"", "equal", "no verdict"}
    assert {row["change_verdict"] for row in value["gains"]} <= {"", "equal", "no verdict"}
    first, interval, needed = value["headlines"][:3]
    assert "one run of pdpc is " in first
    assert first.endswith("One seed per arm allows no verdict on the order.")
    assert interval.startswith("For these two runs only, the 95% interval over other evaluation items is +0.")
    pairs = 2 + (2.8 * math.sqrt(2) * 0.03 / row["difference"]) ** 2
    assert f"(given by seed_deviation), about {math.ceil(pairs)} pairs of seeds would show such a difference." in needed
    assert not re.search(r"(verdict (better|worse)\"|than shuffled|\((better|worse)\))", path.read_text("utf-8"))
    assert not re.search(r", (better|worse);| than shuffled", " ".join(printed.split()))


def test_no_number_of_seeds_is_promised_where_the_items_are_too_few(with_seeds, monkeypatch):
    monkeypatch.setattr(
        "train.report.comparison.interval", lambda *_: Interval(-1.0, 1.0, "items and seeds", 0.9, floor=0.9)
    )
    headlines = make(ReportSettings(runs=with_seeds(shuffled=2, pdpc=2))).headlines
    assert not any("pairs of seeds" in text for text in headlines)
    (sentence,) = [text for text in headlines if text.startswith("More seeds alone would not show")]
    assert "leaves \u00b10.9000 at any number of seeds" in sentence


def test_other_arms_with_several_seeds_say_how_many_would_do(with_seeds, tmp_path):
    runs = with_seeds(shuffled=1, pdpc=1, tilt=3)
    report = make(ReportSettings(runs=runs))
    (sentence,) = [text for text in report.headlines if "of the seeds of tilt" in text]
    assert sentence.startswith("With a standard deviation of 0.")
    unknown = make(ReportSettings(runs={arm: runs[arm] for arm in ("shuffled", "pdpc")})).headlines
    assert any(text.startswith("How many seeds would show such a difference is unknown") for text in unknown)


def test_answers_of_an_earlier_version_are_a_warning(with_seeds, tmp_path):
    runs = with_seeds(shuffled=3, pdpc=3)
    assert not any("earlier version" in text for text in make(ReportSettings(runs=runs)).warnings)
    for file in Path(runs["pdpc"][1]).glob("evaluations/*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns("group"), file)
    (warning,) = [text for text in make(ReportSettings(runs=runs)).warnings if "earlier version" in text]
    assert warning.startswith("The answers of pdpc seed 1 were stored by an earlier version")
    assert "pdpc evaluate run=RUN stages=N" in warning


def test_what_differs_stands_in_page_terminal_and_json(make_run, tmp_path):
    small = {"batch_sizes": [[0, 4]], "steps": 160}
    runs = {"shuffled": str(make_run("shuffled")), "pdpc": str(make_run("pdpc", arranged=small, config={"seed": 2}))}
    path, shown = made(runs, tmp_path)
    value = json.loads(path.with_suffix(".json").read_text("utf-8"))
    found = {row["what"]: row for row in value["differences"]}
    assert found["batch size"]["values"] == {"shuffled": "16", "pdpc": "4"}
    assert found["batch size"]["kind"] == found["seed"]["kind"] == "unfair"
    page = path.read_text("utf-8")
    table = page[page.index('id="differences"') :]
    assert page.index("Before you believe it") < page.index('id="differences"') < page.index('id="curves"')
    for words in ("batch size", "a smaller batch makes more updates", "<code>data.order</code>", "what is compared"):
        assert words in table
    assert "This compares more than orders: the arms also differ in batch size, steps planned, seed." in page
    assert "What differs between the arms, besides the order" in shown
    assert "batch size" in shown
    assert "data.order" not in shown


def test_arms_that_differ_in_the_order_only_have_no_table_on_the_terminal(make_run, tmp_path):
    _, shown = made({name: str(make_run(name)) for name in ("shuffled", "pdpc")}, tmp_path)
    assert "What differs" not in shown
    assert "more than orders" not in shown


def test_unknown_findings_about_the_scores_are_said(make_run):
    arranged = {"inputs": {"scores": "s" * 32}}
    runs = {"shuffled": str(make_run("shuffled")), "pdpc": str(make_run("pdpc", arranged=arranged))}
    (text,) = (text for text in make(ReportSettings(runs=runs)).warnings if "What pdpc score found" in text)
    assert "behind pdpc is unknown" in text
    runs["pdpc"] = str(
        make_run("pdpc", arranged=arranged, folder="said", score_findings={"unusable": [], "others": []})
    )
    assert not [text for text in make(ReportSettings(runs=runs)).warnings if "What pdpc score found" in text]


def test_a_held_out_text_that_cannot_be_read_is_said(comparison, make_run):
    decoder = {"vocab_size": 50}
    for folder in comparison.values():
        info = json.loads((Path(folder) / "run.json").read_text())
        (Path(folder) / "run.json").write_text(json.dumps(info | {"decoder": decoder}))
    report = make(ReportSettings(runs=comparison))  # its TOKENS have no validation slice
    notes = [note for note in report.notes if "compared with guessing only, not with token frequencies" in note]
    assert [note.split(":")[0] for note in notes] == ["shuffled, pdpc"]
    assert "the held-out text of" in notes[0]
    assert any("shuffled is no better than guessing" in text for text in report.warnings)
    gone = {name: str(make_run(name, folder=f"{name}-gone", decoder=decoder)) for name in ("shuffled", "pdpc")}
    notes = [note for note in make(ReportSettings(runs=gone)).notes if "with guessing only" in note]
    assert notes[0].endswith("the tokens of shuffled are no longer at gone/tokens.")


def test_a_target_decides_and_the_rest_is_its_price(make_run, metrics, tmp_path):
    runs = {}
    for arm, target, whole in (("shuffled", (3.0, 3.01, 3.02), 4.0), ("late", (2.9, 2.911, 2.919), 4.02)):
        runs[arm] = []
        for seed, loss in enumerate(target):
            records = [dict(record) for record in metrics("shuffled")]
            for record in records:
                if record["kind"] == "stage":
                    record |= {
                        "val/source/science/loss": loss,
                        "val/source/web/loss": whole,
                        "val/loss": whole + seed / 50,
                    }
            runs[arm].append(str(make_run(arm, records, f"{arm}_{seed}", seed=seed)))
    path, printed = made(runs, tmp_path, target="science")
    assert "late, science: \u22120.1000" in printed
    headlines = json.loads(path.with_suffix(".json").read_text("utf-8"))["headlines"]
    assert (
        "late is 0.1000 nats per token (3.3%) better than shuffled on held-out science: 2.9100 vs. 3.0100"
        in headlines[0]
    )
    assert any(line.startswith("On all held-out text, late differs by +0.0200") for line in headlines)
    text = path.read_text("utf-8")
    first = text.index("<figcaption>")
    assert text.index("Gain on science, and the price elsewhere") < first < text.index("What differs between the arms")
    assert text.count("<figcaption>Held-out loss relative to the baseline") == 1
    with pytest.raises(
        ValueError, match="target=law: the runs have no held-out loss of this source; they have those of"
    ):
        made(runs, tmp_path, target="law")
