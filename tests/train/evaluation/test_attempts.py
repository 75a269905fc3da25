"""A task that ended the process is skipped at its stage, and after two stages in the whole run; others are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from train.evaluation.attempts import MOST_ASKED, Attempts, forget_attempts


def killed_in(run: Path, step: int, task: str, asked: bool = False) -> None:
    """Act as an attempt that ends while a task runs."""
    attempts = Attempts(run, step)
    assert attempts.begin("sound") is None
    attempts.end()
    assert attempts.begin(task) is None
    if asked:
        attempts.asked_to_leave()


def test_a_task_that_ended_an_attempt_is_skipped_at_its_stage_and_tried_at_the_next(tmp_path) -> None:
    killed_in(tmp_path, 10, "deadly")
    for _ in range(2):
        attempts = Attempts(tmp_path, 10)
        assert attempts.begin("deadly") == "ended the process at an earlier attempt"
        assert attempts.begin("sound") is None
        attempts.end()
    killed_in(tmp_path, 20, "deadly")
    assert "at the stages of steps 10, 20" in str(Attempts(tmp_path, 30).begin("deadly"))
    assert Attempts(tmp_path, 30).begin("other") is None
    forget_attempts(tmp_path)
    assert Attempts(tmp_path, 30).begin("deadly") is None


def test_an_attempt_stopped_by_a_signal_was_not_ended_by_the_task(tmp_path) -> None:
    for _ in range(MOST_ASKED - 1):
        killed_in(tmp_path, 10, "slow", asked=True)
    attempts = Attempts(tmp_path, 10)
    assert attempts.begin("slow") is None
    attempts.end()  # it finished: the count restarts
    for _ in range(MOST_ASKED):
        killed_in(tmp_path, 10, "slow", asked=True)
    assert Attempts(tmp_path, 10).begin("slow") == "ended the process at an earlier attempt"


def test_a_part_with_retries_is_tried_again_at_its_stage(tmp_path) -> None:
    for _ in range(3):
        attempts = Attempts(tmp_path, 10)
        assert attempts.begin("heldout", retries=2) is None
    assert Attempts(tmp_path, 10).begin("heldout", retries=2) == "ended the process at 3 earlier attempts"
    later = Attempts(tmp_path, 20)
    assert later.begin("heldout", retries=2) is None
    later.end()
    for _ in range(3):
        assert Attempts(tmp_path, 20).begin("heldout", retries=2) is None
    assert "at the stages of steps 10, 20" in str(Attempts(tmp_path, 30).begin("heldout", retries=2))


def test_a_run_without_tasks_has_no_file(tmp_path) -> None:
    attempts = Attempts(tmp_path, 10)
    attempts.asked_to_leave()
    attempts.end()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "[]", '{"running": null}', '{"running": null, "asked": 3, "ended": {}}'])
def test_a_damaged_file_lets_every_task_be_tried(tmp_path, text, caplog) -> None:
    killed_in(tmp_path, 10, "deadly")
    path = tmp_path / "evaluations" / "attempts.json"
    path.write_text(text)
    attempts = Attempts(tmp_path, 10)
    assert "all tasks will be tried again" in caplog.text
    assert attempts.begin("deadly") is None
    assert json.loads(path.read_text())["running"]["task"] == "deadly"
