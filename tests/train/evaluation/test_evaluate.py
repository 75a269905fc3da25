"""A failing held-out loss affects nothing else; contradictory settings are rejected."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from curriculum.tokens.tokens import Tokens
from launch.evaluate.settings import EvaluateSettings
from models.config import DecoderConfig
from models.decoder import build
from train.checkpoint.records import damaged_records, seal_records
from train.distributed.world import World
from train.evaluation.evaluate import FAILED, Questions, evaluate, nothing_evaluated
from train.evaluation.harness.tasks import BenchmarkSettings
from train.evaluation.heldout import HeldoutSettings
from train.tracking import MetricsFile, read_metrics
from train.tracking.metrics import supersede_record

SINGLE = World(0, 1, 0, 1, torch.device("cpu"))


def test_a_failing_held_out_loss_is_reported(tokens_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokens = Tokens.open(tokens_folder, "validation")
    config = DecoderConfig(vocab_size=8, layers=1, width=8, heads=2, kv_heads=1, ffn=8, max_seq_len=tokens.seq_len)
    questions = Questions(tokens.tokenizer_folder, tokens, None, HeldoutSettings(max_samples=4), BenchmarkSettings())
    with caplog.at_level(logging.WARNING):
        found = evaluate(build(config, seed=0), questions, SINGLE)
    assert found.values.keys() == {"val/error", FAILED}
    assert "IndexError" in str(found.values["val/error"])
    assert found.values[FAILED] == "heldout"
    assert "held-out loss failed" in caplog.text
    assert found.answers == {}


def test_without_data_and_tasks_there_are_no_values(tokens_folder: Path) -> None:
    config = DecoderConfig(vocab_size=8, layers=1, width=8, heads=2, kv_heads=1, ffn=8, max_seq_len=8)
    questions = Questions(tokens_folder, None, None, HeldoutSettings(), BenchmarkSettings())
    assert evaluate(build(config, seed=0), questions, SINGLE).values == {}


def test_an_evaluation_of_nothing_names_every_part(tokens_folder: Path) -> None:
    tokens = Tokens.open(tokens_folder, "validation")
    settings = BenchmarkSettings(tasks=["one", "two"])
    found = nothing_evaluated(Questions(tokens_folder, tokens, None, HeldoutSettings(), settings), "no memory")
    assert found.failed == ["heldout", "one", "two"]
    errors = dict.fromkeys(("val/error", "bench/one/error", "bench/two/error"), "no memory")
    assert found.values == {**errors, FAILED: "heldout,one,two"}
    nothing = nothing_evaluated(Questions(tokens_folder, None, None, HeldoutSettings(), BenchmarkSettings()), "why")
    assert (nothing.values, nothing.failed) == ({}, [])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "neither run, folder nor pack is given"),
        ({"run": "r", "folder": "m"}, "both run and folder are given: give one"),
        ({"folder": "m", "stages": "failed"}, "stages=failed needs a run"),
        ({"run": "r", "stages": "last"}, "stages='last' must be failed, or a stage number"),
        ({"run": "r", "stages": "0"}, "stages='0' must be failed"),
        ({"run": "r", "stages": "failed", "average": 3}, "give run=RUN without stages"),
        ({"folder": "m", "weights": "running"}, "apply to a run's newest checkpoints"),
        ({"run": "r", "tokens": "t"}, "tokens=t is only for folder=FOLDER"),
        ({"pack": "p"}, r"benchmarks\.tasks is empty: give the tasks to pack"),
        ({"run": "r", "processes": 0}, "processes=0 must be at least 1"),
    ],
)
def test_contradictory_settings_are_rejected(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluateSettings(**given)


def test_a_superseding_record_is_appended_and_a_torn_line_removed(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = '{"kind": "stage", "step": 2}\n{"kind": "train", "step": 3}\n'
    path.write_text(whole)
    manifest = SimpleNamespace(facts={"records": seal_records(tmp_path)})
    path.write_text(whole + '{"kind": "tra')
    supersede_record(path, {"kind": "stage", "step": 2, "val/loss": 1.0})
    assert path.read_text().startswith(whole)
    assert [record["step"] for record in read_metrics(path)] == [2, 3, 2]
    assert read_metrics(path)[-1]["val/loss"] == 1.0
    assert damaged_records(tmp_path, manifest) == []  # the sealed part is unchanged
    MetricsFile(tmp_path, 2).close()
    assert [record["step"] for record in read_metrics(path)] == [2, 2]
