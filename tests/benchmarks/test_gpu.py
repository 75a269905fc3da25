"""The GPU benchmark without a GPU: nothing is measured; arithmetic, tables, and a dry run on the CPU."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import gpu
from benchmarks.gpu_published import PUBLISHED, comparable, mfu, peak_of

TINY = [
    *("--seq-len", "32", "--tokens", "64", "--micro-batch-size", "2"),
    *("--steps", "2", "--warm-up", "1", "--repeats", "1", "--threads", "1"),
]


def shown(result: dict[str, Any]) -> str:
    console = Console(record=True, width=200)
    for table in gpu.tables(result):
        console.print(table)
    return console.export_text()


def test_without_a_gpu_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    gpu.main([], folder=tmp_path)
    assert "no GPU here" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_on_the_cpu_is_labelled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--device", "cpu", "--size", "demo_weak", *TINY], folder=tmp_path)
    assert capsys.readouterr().out.count("CPU DRY RUN, not a GPU's figures") == 3
    assert [path.name for path in tmp_path.iterdir()] == ["gpu_dry_run.json"]
    result = json.loads((tmp_path / "gpu_dry_run.json").read_text())
    assert result["dry_run"] is True
    assert result["peak_per_s"] is None
    (step,) = result["steps"]
    assert step["parameters"] == 6_508_864
    assert step["tokens_per_s"] == pytest.approx(64 / step["step_s"])
    assert (step["devices"], step["published"], "mfu" in step) == (1, [], False)
    rows = {(row["backend"], row["documents"]): row for row in result["attention"]}
    assert rows["sdpa", "packed"]["ms"] > 0
    assert "only on cuda" in rows["flash", "packed"]["not_run"]
    assert all(row["plain_ms"] > 0 and "CUDA" in row["liger_not_run"] for row in result["kernels"])
    assert [row["function"] for row in result["kernels"]] == ["rms_norm", "rotate", "swiglu", "linear_cross_entropy"]


def test_failed_steps_are_a_row_with_the_reason(tmp_path: Path) -> None:
    row = gpu._step("demo_weak", {**vars(gpu._options(TINY)), "set": ["optimizer.lr=-1"]}, "cpu")
    assert "optimizer.lr=-1" in row["not_run"]
    assert gpu.with_mfu(row, 312e12) == {**row, "published": []}


def test_mfu_is_the_models_operations_over_the_cards_peak() -> None:
    assert mfu(1000.0, 78e9, 312e12) == 0.25
    row = gpu.with_mfu(
        {
            "size": "1.3b",
            "seq_len": 2048,
            "devices": 8,
            "tokens_per_s": 20_000.0,
            "peak_bytes": 40 << 30,
            "operations_per_token": 9_111_601_152,
            "operations_per_token_causal": 8_507_621_376,
        },
        312e12,
    )
    assert row["mfu"] == pytest.approx(0.58408, abs=1e-5)
    assert row["mfu_causal"] == pytest.approx(0.54536, abs=1e-5)
    assert {other["model"] for other in row["published"]} >= {"llm-foundry MPT 1b", "TinyLlama 1.1B"}
    text = shown({"dry_run": False, "card": "NVIDIA A100", "attention": [], "kernels": [], "steps": [row]})
    assert re.search(r"ours 1\.3b .* 2048 .* 8 .* 20,000 .* 58\.4% .* 54\.5% .* 40\.0", text)
    assert re.search(r"llm-foundry MPT 1b .* A100-80 .* 20,513 .* 59\.9%", text)
    assert "DRY RUN" not in text


def test_published_rows_are_matched_by_size_and_length() -> None:
    assert {row.size for row in PUBLISHED} == {"1.3b", "3b"}
    assert all(0.4 < row.mfu < 0.7 and row.source.startswith("https://") for row in PUBLISHED)
    assert {row.seq_len for row in comparable("3b", 4096)} == {4096}
    assert comparable("7b", 2048) == []
    assert peak_of("NVIDIA A800-SXM4-80GB") == 312e12
    assert peak_of("NVIDIA L4") is None


def test_tokens_must_be_whole_samples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["--tokens", "1000"])
    assert "--tokens 1000 must be a multiple of --seq-len 2048" in capsys.readouterr().err
