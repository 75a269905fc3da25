import io
import re

import pytest
from rich.console import Console

from train.report import ReportSettings, make, terminal


def printed(runs, tmp_path, width=100, **more):
    report = make(ReportSettings(runs=runs, **more))
    console = Console(file=io.StringIO(), width=width)
    terminal.show(report, console, tmp_path / "report.html")
    return console.file.getvalue()


def test_the_table_has_a_row_per_arm_and_the_difference(make_run, tmp_path):
    text = printed({arm: str(make_run(arm)) for arm in ("shuffled", "pdpc")}, tmp_path)
    lines = text.splitlines()
    last = next(number for number, line in enumerate(lines) if line.split()[:3] == ["4", "4.00k", "shuffled"])
    assert lines[last].split()[3:6] == ["4.0000", "4.2000", "3.8000"]
    assert lines[last + 1].split() == ["pdpc", "4.1000", "4.5000", "3.7000", "53.0%"]
    assert lines[last + 2].split() == [
        "difference",
        "+0.1000",
        "?",
        "+0.3000",
        "?",
        "\u22120.1000",
        "?",
        "+3.0",
        "pt",
        "?",
    ]
    assert "One seed per arm" in text
    assert "above shuffled" in text
    assert "no verdict; 1 seed each, from standard errors, unpaired, one pair of runs" in " ".join(text.split())


def test_the_gains_at_the_end_have_seeds_intervals_and_verdicts_in_words(with_seeds, tmp_path):
    text = printed(with_seeds(shuffled=3, pdpc=3), tmp_path, width=120)
    line = r"pdpc, Held-out: \+0\.\d+ \(\+0\.\d+ to \+0\.\d+\), worse; 3 seeds each, paired by item, over seeds"
    assert re.search(line, " ".join(text.split()))
    assert "pdpc (3)" in text


def test_with_more_arms_each_difference_is_named(make_run, tmp_path):
    text = printed({arm: str(make_run(arm)) for arm in ("shuffled", "pdpc", "tilt")}, tmp_path)
    assert "diff. pdpc" in text
    assert "diff. tilt" in text


def test_markup_in_names_is_not_interpreted(make_run, tmp_path):
    text = printed({arm: str(make_run(arm)) for arm in ("shuffled", "pdpc")}, tmp_path, title="[red]title[/red]")
    assert "[red]title[/red]" in text


@pytest.mark.parametrize("tasks", [1, 2, 9])
def test_the_table_fits_a_terminal_with_any_number_of_benchmarks(metrics, make_run, tmp_path, tasks):
    more = {f"bench/task{number}/acc": 0.5 for number in range(tasks)}
    runs = {}
    for arm in ("shuffled", "pdpc"):
        records = [record | (more if record["kind"] == "stage" else {}) for record in metrics(arm)]
        runs[arm] = str(make_run(arm, records))
    assert max(len(line) for line in printed(runs, tmp_path, width=100).splitlines()) <= 100


def test_a_narrow_console_shows_fewer_measures_and_truncates_no_number(make_run, tmp_path):
    runs = {arm: str(make_run(arm)) for arm in ("shuffled", "pdpc")}
    wide, narrow = (printed(runs, tmp_path, width=width).split("Final difference")[0] for width in (160, 50))
    assert "High PD" in wide
    assert "High PD" not in narrow
    assert "\u2026" not in narrow
    assert "4.0000" in narrow
    assert "difference" in narrow
