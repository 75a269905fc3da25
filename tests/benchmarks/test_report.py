"""The JSON of a result is written atomically, and says the same as the table."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import report
from benchmarks.report import Result, finish
from benchmarks.rounds import Check


def result(value: float = 2.0, rounds: int = 2) -> Result:
    facts = [{"seconds": float(number + 1), "peak_bytes": (number + 1) << 20} for number in range(rounds)]
    return Result(
        name="trial",
        settings={"samples": 1_000_000, "seed": 3, "threads": None},
        peers=("numpy", "no-such-peer"),
        measured={"ours": facts, "theirs": facts},
        ratios={"theirs / ours": [2.0, 4.0, 3.0]},
        checks=[Check("faster", value, 2.5, "at least", "x")],
        notes=["a note"],
    )


def shown(made: Result, folder: Path, *, keep: bool = False) -> tuple[str, Path]:
    """Finish a result; return what it prints and the file."""
    console = Console(width=120, file=io.StringIO(), record=True)
    path = finish(made, keep=keep, console=console, folder=folder)
    return console.export_text(), path


def test_json_has_the_measurements_and_the_machine(tmp_path: Path) -> None:
    _, path = shown(result(), tmp_path)
    found = json.loads(path.read_text("utf-8"))
    assert path == tmp_path / "trial.json"
    assert found["settings"] == {"samples": 1_000_000, "seed": 3, "threads": None}
    assert found["sides"]["ours"]["seconds"] == {"median": 1.5, "low": 1.0, "high": 2.0}
    assert found["sides"]["ours"]["peak_bytes"] == 2 << 20
    assert found["ratios"]["theirs / ours"] == {"median": 3.0, "low": 2.0, "high": 4.0, "rounds": [2.0, 4.0, 3.0]}
    assert found["checks"][0]["held"] is False
    assert found["versions"]["no-such-peer"] == "not installed"
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["memory_bytes"] > 1 << 28


def test_the_table_has_ratio_spread_and_verdict(tmp_path: Path) -> None:
    text, _ = shown(result(), tmp_path)
    assert "theirs / ours" in text
    assert "3 x" in text
    assert "2 .. 4" in text
    assert "at least 2.5: MISSED" in text
    assert "2 MiB" in text
    assert "threads" not in text
    assert "fewer than 5 rounds" in text
    assert "fewer than 5 rounds" not in shown(result(rounds=5), tmp_path)[0]


def test_kept_results_have_a_separate_folder(tmp_path: Path) -> None:
    _, path = shown(result(), tmp_path, keep=True)
    assert path == tmp_path / "kept" / "trial.json"
    assert not (tmp_path / "trial.json").exists()


def test_a_result_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, path = shown(result(value=5.0), tmp_path)
    before = path.read_text("utf-8")
    with pytest.raises(ValueError, match="JSON"):
        shown(result(value=float("nan")), tmp_path)

    def torn(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("curriculum.artifact.manifest.os.fsync", torn)
    with pytest.raises(OSError, match="disk full"):
        shown(result(value=1.0), tmp_path)
    assert path.read_text("utf-8") == before
    assert [file.name for file in tmp_path.iterdir()] == ["trial.json"]


def test_results_are_ignored_by_git_and_kept_ones_are_not() -> None:
    ignored = (report.RESULTS.parents[1] / ".gitignore").read_text("utf-8").split()
    assert "benchmarks/results/*.json" in ignored
