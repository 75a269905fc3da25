"""The coverage benchmark studies runs of one arm, and exits with 1 when a difference is called too often."""

import json
from pathlib import Path

import pytest

from benchmarks import interval_coverage
from benchmarks.interval_runs import Study
from train.report.arms import read_arm


def test_groups_of_runs_of_one_arm_are_compared(with_seeds, capsys):
    places = with_seeds(shuffled=7)["shuffled"]
    code = interval_coverage.main(["--aa", *places, "--draws", "12"])
    printed = capsys.readouterr().out
    rows = [line.split("\u2502")[1:-1] for line in printed.splitlines() if line.startswith("\u2502")]
    found = [[cell.strip() for cell in row] for row in rows]
    assert [(row[0], row[1], row[2]) for row in found] == [
        ("1", "no run in common", "3"), ("1", "random", "12"),
        ("2", "unpaired, no run in common", "1"), ("2", "unpaired, random", "12"),
        ("2", "paired, no run in common", "1"), ("2", "paired, random", "12"),
        ("3", "unpaired, no run in common", "1"), ("3", "unpaired, random", "12"),
        ("3", "paired, no run in common", "1"), ("3", "paired, random", "12"),
    ]  # fmt: skip
    assert [row[4] for row in found[:2]] == ["0.0 %", "0.0 %"], "one seed is no verdict"
    assert float(found[1][3].split()[0]) > 50, "although the interval over items excludes zero"
    assert "7 runs of one arm" in printed
    worst = max(float(row[4].split()[0]) for row in found if row[0] == "3" and row[1].endswith("random"))
    assert (code, printed.split()[-1]) == ((1, "MISSED") if worst > 7 else (0, "held"))


def test_groups_are_the_same_for_the_same_seed_and_never_overlap(with_seeds):
    arm = read_arm("aa", with_seeds(shuffled=6)["shuffled"])
    assert Study(arm, 1).random(2, 5, False) == Study(arm, 1).random(2, 5, False)
    assert Study(arm).disjoint(3, True).comparisons == 1
    assert Study(arm).disjoint(1, True).comparisons == 3


def test_runs_that_share_a_seed_are_rejected(with_seeds):
    places = with_seeds(shuffled=2)["shuffled"]
    info = Path(places[1]) / "run.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"seed": 0}))
    with pytest.raises(ValueError, match="at least two runs with different seeds"):
        interval_coverage.main(["--aa", *places])
