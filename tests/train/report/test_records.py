import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from curriculum.artifact.lock import Lock
from train.report.records import finite, read_metrics, read_run


def line(**values):
    return json.dumps({"kind": "train", "step": 1, "tokens": 10} | values) + "\n"


def test_a_run_is_read_by_kind_and_in_step_order(make_run):
    run = read_run("pdpc", make_run("pdpc"))
    assert [record["step"] for record in run.stages] == [10, 20, 30, 40]
    assert len(run.train) == 20
    assert run.finished
    assert run.tokens == 4000
    assert run.fact("paths", "slice") == "train"
    assert run.fact("paths", "nothing", "deeper") is None
    assert run.notes == []


def test_a_missing_folder_and_missing_metrics_are_errors_that_name_them(tmp_path):
    with pytest.raises(ValueError, match=r"runs\.pdpc: .*nowhere is not a folder"):
        read_run("pdpc", tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"metrics\.jsonl is missing"):
        read_run("pdpc", tmp_path)


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("{not json\n", "line 2"),
        ("[1]\n", "a list, not an object"),
        ('{"step": 1}\n', "no kind"),
        ('{"kind": "train", "step": -1, "tokens": 5}\n', "step is -1"),
        ('{"kind": "stage", "step": 1, "tokens": true}\n', "tokens is True"),
        ("\xff\n", "line 2"),
    ],
)
def test_a_broken_line_is_an_error_with_its_number(tmp_path, broken, why):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line().encode() + broken.encode("latin-1") + line(step=2).encode())
    with pytest.raises(ValueError, match=why) as error:
        read_metrics(path)
    assert "line 2" in str(error.value)
    assert str(path) in str(error.value)


def test_a_torn_last_line_is_ignored_and_reported(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(line() + line(step=2)[:20])
    records, notes = read_metrics(path)
    assert [record["step"] for record in records] == [1]
    assert notes == ["the last line of metrics.jsonl (line 2) is torn and was ignored"]
    path.write_text(line() + line(step=2)[:20] + "\n")
    with pytest.raises(ValueError, match="line 2"):
        read_metrics(path)


def test_a_complete_last_line_counts_without_a_newline(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(line() + line(step=2).rstrip("\n"))
    records, notes = read_metrics(path)
    assert [record["step"] for record in records] == [1, 2]
    assert notes == []


def test_the_later_record_of_a_step_wins_and_is_counted(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        line(**{"train/loss": 5.0}) + line(step=2) + line(**{"train/loss": 4.0}) + line(kind="note", text="hello")
    )
    run = read_run("pdpc", tmp_path)
    assert [(record["step"], record.get("train/loss")) for record in run.train] == [(1, 4.0), (2, None)]
    notes = " ".join(run.notes)
    assert "1 record(s) were rewritten by a resume" in notes
    assert "1 record(s) of other kinds (note)" in notes
    assert "run.json is missing" in notes
    assert "config.json is missing" in notes


def test_values_that_are_not_finite_are_reported_and_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(line(**{"train/loss": float("nan")}) + line(step=2))
    run = read_run("pdpc", tmp_path)
    assert finite(run.train[0], "train/loss") is None
    assert any("non-finite values" in note for note in run.notes)


@pytest.mark.parametrize(("value", "expected"), [(3, 3.0), (0.5, 0.5), (True, None), ("3", None), (None, None)])
def test_finite_takes_numbers_only(value, expected):
    assert finite({"key": value}, "key") == expected


def test_a_run_file_that_is_not_json_is_an_error(make_run):
    folder: Path = make_run("pdpc")
    (folder / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is not JSON"):
        read_run("pdpc", folder)


@pytest.mark.parametrize("holds", [True, False])
def test_a_run_marked_as_running_is_running_only_while_its_lock_is_held(make_run, holds):
    folder = make_run("pdpc")
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**info, "status": "running"}))
    with Lock(folder / ".lock", "run") if holds else nullcontext():
        run = read_run("pdpc", folder)
    status = "running" if holds else "not running (it was killed or failed: its lock is free)"
    assert run.fact("status") == status
    assert f"the run is not finished (status: {status}); results so far are shown" in run.notes
