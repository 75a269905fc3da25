"""What a study finds in its runs, and its page."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch.study.file import Study, read_study
from launch.study.page import headline, render, write_page
from launch.study.results import results_of
from launch.study.steps import Steps, steps_of
from tests.launch.study.example import written
from tests.train.report.conftest import answer, records_of, write_run
from train.evaluation.answers import answers_path

TARGET = "val/source/code/loss"


def made(folder: Path, seeds: int, gain: float, **changes: Any) -> tuple[Study, Steps]:
    """Write the runs of a study in which `late` gains on code and loses elsewhere; seeds differ by 0.02."""
    primary = {"measure": TARGET, "arm": "late", "schedule": "gentle"}
    schedules = {"gentle": {"schedule": "gentle"}, "cosine": {}}
    study = read_study(written(folder, seeds=seeds, primary=primary, schedules=schedules, **changes))
    steps = steps_of(study, folder, lambda verb, words: None, lambda settings: 1)
    for run in steps.runs:
        records = records_of("shuffled", stages=2)
        for record in (record for record in records if record["kind"] == "stage"):
            for key in [key for key in record if key.endswith("loss")]:
                record[key] += 0.02 * run.seed + 0.001 * (run.seed * len(run.arm) % 5)
                record[key] += 0.05 * (run.schedule == "cosine")
                if run.arm == "late":
                    record[key] += -gain if key == TARGET else 0.01
        answer(write_run(run.step.output, run.arm, records, seed=run.seed), run.seed)
    return study, steps


def test_a_gain_and_its_price(tmp_path: Path) -> None:
    study, steps = made(tmp_path, 4, gain=0.1)
    results = results_of(study, steps)
    assert results.baseline_schedule == "gentle"
    assert results.primary.gain.verdict == "better"
    assert results.primary.gain.value == pytest.approx(-0.1, abs=0.01)
    assert results.primary.gain.method == "items and seeds"
    assert results.primary.gain.corrected == results.primary.gain.p
    assert results.primary.evidence == "suggestive"
    price = next(one for one in results.secondary if (one.schedule, one.measure.key) == ("gentle", "val/loss"))
    assert price.gain.value > 0
    assert price.gain.p is not None
    assert price.gain.corrected >= price.gain.p
    assert results.tokens_saved is not None
    assert results.tokens_saved.value < 0
    assert headline(study, results).startswith("late (gentle) compared with shuffled (gentle) is better: \u22120.")
    alone = replace(study, schedules={"gentle": study.schedules["gentle"]})
    assert headline(alone, results).startswith("late compared with shuffled is better: \u22120.")


def test_no_gain(tmp_path: Path) -> None:
    study, steps = made(tmp_path, 3, gain=0.0)
    results = results_of(study, steps)
    assert "no significant difference" in headline(study, results)
    assert results.primary.evidence == "not supported"
    assert results.needed >= 2


def test_without_answers_by_document_the_headline_and_the_evidence_agree(tmp_path: Path) -> None:
    study, steps = made(tmp_path, 4, gain=0.1)
    for run in steps.runs:
        shutil.rmtree(answers_path(run.step.output, 0).parent)
    results = results_of(study, steps)
    assert results.primary.by_seeds is not None
    assert results.primary.by_seeds.high < 0
    assert results.primary.evidence == "not supported"
    assert "no verdict, because the runs kept no answers by document" in headline(study, results)
    assert "only the seeds were tested" in write_page(study, results, tmp_path).read_text("utf-8")


def test_a_run_that_has_not_finished_takes_its_pair_out(tmp_path: Path) -> None:
    study, steps = made(tmp_path, 4, gain=0.1)
    late = next(run for run in steps.runs if (run.arm, run.schedule, run.seed) == ("late", "gentle", 1))
    shutil.rmtree(late.step.output)
    results = results_of(study, steps)
    assert list(results.primary.values) == list(results.primary.baseline) == [0, 2, 3]
    assert results.primary.gain.paired
    assert results.notes[0] == "1 runs have not finished"


def test_two_seeds_are_needed(tmp_path: Path) -> None:
    study, steps = made(tmp_path, 1, gain=0.1)
    with pytest.raises(ValueError, match="the primary comparison needs 2 seeds of late and shuffled"):
        results_of(study, steps)


def test_a_measure_that_no_run_has(tmp_path: Path) -> None:
    _, steps = made(tmp_path, 2, gain=0.1)
    wrong = read_study(written(tmp_path, primary={"measure": "val/source/art/loss", "arm": "late"}))
    with pytest.raises(ValueError, match="no run has recorded val/source/art/loss: use one of bench/avg"):
        results_of(wrong, steps)


def test_the_page(tmp_path: Path) -> None:
    study, steps = made(tmp_path, 3, gain=0.1)
    results = results_of(study, steps)
    page = write_page(study, results, tmp_path).read_text("utf-8")
    assert "late (gentle) compared with shuffled (gentle) is better" in page
    assert page.count("<svg") == 2
    found = json.loads((tmp_path / "results.json").read_text("utf-8"), parse_constant=pytest.fail)  # NaN is no JSON
    assert len(found["primary"]["values"]) == 3
    assert page == write_page(study, results_of(study, steps), tmp_path).read_text("utf-8")
    name = "</title><script>alert(1)</script>"
    named = replace(results.secondary[0], measure=replace(results.secondary[0].measure, label=name))
    hostile = render(replace(study, question=name), replace(results, secondary=[named]))
    assert "<script" not in hostile
    assert hostile.count("&lt;script&gt;") >= 3


def test_runs_of_other_text_are_not_compared(tmp_path: Path) -> None:
    """The text was changed after the first runs: what a pair measured is not the same."""
    study, steps = made(tmp_path, 2, gain=0.1)
    one = steps.runs[0]
    shutil.rmtree(one.step.output)
    write_run(one.step.output, one.arm, seed=one.seed, fingerprints={"validation": "0" * 32})
    with pytest.raises(ValueError, match="cannot be compared: the held-out texts differ"):
        results_of(study, steps)
