import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from train.report import ReportSettings, make, run


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
    assert value["format_version"] == 2
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
    assert report.notes == ["stage 4 of pdpc failed in echo (no data)"]
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
