"""The GPU check without a GPU: verdicts, processes, faults planted in fakes, a dry run, tables and arithmetic."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.console import Console

from benchmarks.gpu import attention, decoder, kernels, session, wheels
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.check import Row, Skipped
from benchmarks.gpu.child import outcome
from benchmarks.gpu.groups import Clock, Group, run_group
from benchmarks.gpu.published import PUBLISHED, comparable, mfu, peak_of
from benchmarks.gpu.tables import tables
from models.attention import BACKENDS
from models.kernels import choose
from tests.attention_fakes import fake_flash, fake_varlen

CPU = torch.device("cpu")
TINY = [
    *("--device", "cpu", "--size", "demo_weak", "--seq-len", "32", "--tokens", "64", "--micro-batch-size", "2"),
    *("--steps", "2", "--warm-up", "1", "--repeats", "1", "--threads", "1", "--no-compile"),
    *("--minutes", "60"),  # other work may slow it down
]
FAKE_GROUP = """
import os, time
from benchmarks.gpu.check import Skipped

def skip():
    raise Skipped("not here")

def checks(settings):
    return {
        "good": lambda: {"error": 0.5, "bound": 1.0},
        "killed": lambda: os.kill(os.getpid(), 9),
        "after": lambda: {"fact": settings["given"]},
        "silent exit": lambda: os._exit(0),
        "skips": skip,
        "raises": lambda: 1 / 0,
        "hangs": lambda: time.sleep(600),
        "last": lambda: {},
    }
"""


def raising(error: Exception) -> Row:
    raise error


@pytest.mark.parametrize(
    ("check", "state", "why"),
    [
        (lambda: {"error": 1.0, "bound": 1.0}, "passed", None),
        (lambda: {"fact": 1}, "passed", None),
        (lambda: {"error": 1.1, "bound": 1.0}, "failed", "differs by 1.1, more than 1"),
        (lambda: {"error": float("nan"), "bound": 1.0}, "failed", "differs by nan, more than 1"),
        (lambda: raising(Skipped("no flash-attn")), "skipped", "no flash-attn"),
        (lambda: raising(RuntimeError("CUDA error\nmore")), "failed", "RuntimeError: CUDA error"),
    ],
)
def test_a_check_has_one_of_three_states(check: Any, state: str, why: str | None) -> None:
    row = outcome("name", check)
    assert (row["check"], row["state"], row.get("why")) == ("name", state, why)
    json.dumps(row, allow_nan=False)


def test_whatever_ends_a_process_the_other_checks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fake_group.py").write_text(FAKE_GROUP)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")
    monkeypatch.setattr("benchmarks.gpu.groups.LEAST_S", 1.0)
    rows = tmp_path / "rows"
    rows.mkdir()
    found = run_group(Group("fake", "fake_group", 20.0), {"device": "cpu", "given": 7}, rows, Clock(90.0))
    states = {row["check"]: (row["state"], row.get("why")) for row in found}
    assert states == {
        "good": ("passed", None),
        "killed": ("failed", "its process ended: signal SIGKILL"),
        "after": ("passed", None),
        "silent exit": ("failed", "its process ended: code 0: no output"),
        "skips": ("skipped", "not here"),
        "raises": ("failed", "ZeroDivisionError: division by zero"),
        "hangs": ("failed", "its process ended: no result after 20 s"),
        "last": ("passed", None),
    }
    assert found[2] | {"seconds": 0} == {"group": "fake", "check": "after", "fact": 7, "state": "passed", "seconds": 0}


def test_a_group_that_cannot_start_or_has_no_time_left_is_one_row(tmp_path: Path) -> None:
    (lost,) = run_group(Group("lost", "benchmarks.gpu.none", 60.0), {"device": "cpu"}, tmp_path, Clock(60.0))
    assert lost["state"] == "failed"
    assert "No module named 'benchmarks.gpu.none'" in lost["why"]
    (late,) = run_group(Group("late", "benchmarks.gpu.facts", 60.0), {"device": "cpu"}, tmp_path, Clock(1.0))
    assert (late["state"], late["why"]) == ("skipped", "no time left (--minutes)")


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let flash and varlen run on the CPU, as fakes with the real signatures."""
    package = ModuleType("flash_attn")
    package.flash_attn_varlen_func = fake_flash([])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", fake_varlen([]))
    for name in ("flash", "varlen"):
        able = {"devices": ("cpu",), "trains_on": ("cpu",), "missing": lambda: None}
        monkeypatch.setitem(BACKENDS, name, replace(BACKENDS[name], **able))
    monkeypatch.setattr(attention, "SHAPES", ((4, 2, 16),))
    monkeypatch.setattr(attention, "LAYOUTS", {"packed": attention.Documents((1, 7, 24, 20, 9, 3), 2)})


@pytest.mark.parametrize("name", ["flash", "varlen"])
def test_right_kernels_pass(name: str, on_cpu: None) -> None:
    assert outcome(name, lambda: attention.against_reference(name, CPU))["state"] == "passed"


def test_planted_attention_faults_are_found(on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    real = BACKENDS["varlen"]
    wrong = {
        "differs by": lambda q, k, v, bounds: real.attend(q * 1.1, k, v, bounds),  # another scale
        "more than 0": lambda q, k, v, bounds: real.attend(q, k, v, bounds) + 1e-3 * v.sum(),  # leaks
        "boom": lambda q, k, v, bounds: raising(RuntimeError("boom")),
    }
    for why, attend in wrong.items():
        monkeypatch.setitem(BACKENDS, "varlen", replace(real, attend=attend))
        row = outcome("varlen", lambda: attention.against_reference("varlen", CPU))
        assert row["state"] == "failed"
        assert why in row["why"]


def test_planted_kernel_faults_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = choose("plain", "cpu")
    made = kernels.checks({"device": "cpu", "tokens": 64})
    named = {name: made[f"plain {name}"] for name in ("rms_norm bf16", "rotate bf16", "swiglu bf16", "loss fp32")}
    assert {outcome(name, check)["state"] for name, check in named.items()} == {"passed"}
    wrong = replace(
        right,
        rms_norm=lambda x, weight, eps: right.rms_norm(x, weight, 0.1),
        rotate=lambda q, k, rotary: right.rotate(q, k, (rotary[0], -rotary[1])),
        swiglu=lambda gate, up: right.swiglu(up, gate),
        cross_entropy_=lambda *arguments: right.cross_entropy_(*arguments[:4], 0.0, arguments[5]),  # no z-loss
    )
    monkeypatch.setattr(kernels, "choose", lambda name, device: wrong)
    assert {outcome(name, check)["state"] for name, check in named.items()} == {"failed"}


def test_a_decoder_that_recomputes_or_leaks_wrongly_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(decoder.CONFIG, layers=1, width=32, ffn=48, max_seq_len=48)
    monkeypatch.setattr(decoder, "CONFIG", small)
    made = decoder.checks({"device": "cpu", "compile": False})
    row = outcome("full", made["decoder, recomputed, full"])
    assert (row["state"], row["same_bits_as_kept"]) == ("passed", True)
    assert outcome("sdpa", made["decoder, attention sdpa"])["state"] == "passed"
    decoder.passes.cache_clear()
    leaky = replace(BACKENDS["sdpa"], layout=lambda documents, device: ((2, 48),))  # one document per row
    monkeypatch.setitem(BACKENDS, "sdpa", leaky)
    assert outcome("sdpa", made["decoder, attention sdpa"])["state"] == "failed"
    decoder.passes.cache_clear()


def test_a_dry_run_on_the_cpu_is_labelled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--only", "timing", "steps"], folder=tmp_path) == session.SKIPPED
    assert capsys.readouterr().out.count("CPU DRY RUN, not a GPU's figures") == 4
    assert [path.name for path in tmp_path.iterdir()] == ["gpu_dry_run.json"]
    result = json.loads((tmp_path / "gpu_dry_run.json").read_text())
    assert (result["dry_run"], result["peak_per_s"], result["exit_code"]) == (True, None, session.SKIPPED)
    assert result["auto"] == ["attention: blocks (cpu, bf16)", "kernels: plain (cpu, bf16)"]
    ours, theirs = result["steps"]
    assert (ours["side"], theirs["side"]) == ("PDPC demo_weak", "Hugging Face demo_weak")
    for step in (ours, theirs):
        assert step["state"] == "passed"
        assert step["parameters"] == 6_508_864
        assert step["tokens_per_s"] == pytest.approx(64 / step["step_s"])
        assert step["loss"] < step["first_loss"] == pytest.approx(10.83, abs=0.1)  # ln 50,304
        assert (step["devices"], step["published"], "mfu" in step) == (1, [], False)
    timed = {row["check"]: row for row in result["checks"]}
    assert {row["documents"] for row in timed["time of attention sdpa"]["attention"]} == {"one per sample", "packed"}
    assert timed["time of attention flash"]["why"] == "runs only on cuda, not on cpu"
    assert timed["time of swiglu"]["kernels"][0]["plain_ms"] > 0


def test_without_a_gpu_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main([], folder=tmp_path) == session.FAILED
    assert "no GPU here" in " ".join(re.sub("[│\n]", " ", capsys.readouterr().out).split())
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert [(row["check"], row["state"]) for row in result["checks"]] == [("device", "failed")]
    assert result["steps"] == []


@pytest.mark.parametrize(
    ("states", "code"), [("passed", 0), ("passed skipped", 3), ("skipped failed passed", 1), ("failed", 1)]
)
def test_the_exit_code_says_whether_all_passed(states: str, code: int) -> None:
    rows = [{"state": state} for state in states.split()]
    assert session.exit_code({"checks": rows[:1], "steps": rows[1:]}) == code


def test_a_micro_batch_that_does_not_fit_is_halved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def full(group: Group, settings: Row, folder: Path, clock: Clock) -> list[Row]:
        tried.append(settings["micro_batch_size"])
        fits = settings["micro_batch_size"] <= fitting
        return [{"check": "steps", "state": "passed"} | ({} if fits else {"out_of_memory": "CUDA out of memory"})]

    monkeypatch.setattr(session, "run_group", full)
    settings = {"model": "3b", "micro_batch_size": 8}
    fitting = 2
    (row,) = session.steps_of(Group("PDPC 3b", "none", 1.0), settings, tmp_path, Clock(1.0))
    assert (tried, row["state"], row["side"]) == ([8, 4, 2], "passed", "PDPC 3b")
    fitting = 0
    (row,) = session.steps_of(Group("PDPC 3b", "none", 1.0), settings, tmp_path, Clock(1.0))
    assert (row["state"], row["why"]) == ("skipped", "out of memory with one sample: CUDA out of memory")


def test_mfu_is_the_models_operations_over_the_cards_peak() -> None:
    assert mfu(1000.0, 78e9, 312e12) == 0.25
    measured = {
        "side": "PDPC 1.3b",
        "state": "passed",
        "size": "1.3b",
        "seq_len": 2048,
        "micro_batch_size": 8,
        "devices": 8,
        "tokens_per_s": 20_000.0,
        "peak_bytes": 40 << 30,
        "operations_per_token": 9_111_601_152,
        "operations_per_token_causal": 8_507_621_376,
    }
    row = session.with_mfu(measured, 312e12)
    assert row["mfu"] == pytest.approx(0.58408, abs=1e-5)
    assert row["mfu_causal"] == pytest.approx(0.54536, abs=1e-5)
    assert {other["model"] for other in row["published"]} >= {"llm-foundry MPT 1b", "TinyLlama 1.1B"}
    console = Console(record=True, width=200)
    for table in tables({"dry_run": False, "card": "NVIDIA A100", "checks": [], "steps": [row]}):
        console.print(table)
    text = console.export_text()
    assert re.search(r"PDPC 1\.3b .* 2048 .* 8 .* 8 .* 20,000 .* 58\.4% .* 54\.5% .* 40\.0", text)
    assert re.search(r"llm-foundry MPT 1b .* A100-80 .* 20,513 .* 59\.9%", text)
    assert "DRY RUN" not in text


def test_published_rows_are_matched_by_size_and_length() -> None:
    assert {row.size for row in PUBLISHED} == {"1.3b", "3b"}
    assert all(0.4 < row.mfu < 0.7 and row.source.startswith("https://") for row in PUBLISHED)
    assert {row.seq_len for row in comparable("3b", 4096)} == {4096}
    assert comparable("7b", 2048) == []
    assert peak_of("NVIDIA A800-SXM4-80GB") == 312e12
    assert peak_of("NVIDIA H100 PCIe") == 756e12
    assert peak_of("NVIDIA H200") == 989e12
    assert peak_of("NVIDIA L4") is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tokens", "1000"], "--tokens 1000 must be a multiple of --seq-len 2048"),
        (["--steps", "0"], "'0' must be an integer of at least 1"),
        (["--minutes", "nan"], "--minutes nan must be above 0"),
        (["--size", "13b"], "--size 13b is no file of configs/model"),
        (["--only", "speed"], "--only speed is unknown"),
    ],
)
def test_bad_options_are_rejected(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert message in capsys.readouterr().err


def test_only_what_a_node_lacks_is_taken_from_the_wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pinned = wheels.pins()
    assert pinned.keys() == set(wheels.listed())
    assert {"torch", "numpy", "transformers"}.isdisjoint(pinned)
    assert set(wheels.BUILT) | set(wheels.PINNED) | set(wheels.COMPILED) | set(wheels.TOGETHER) <= pinned.keys()
    there = {**pinned}
    monkeypatch.setattr(wheels, "version", lambda name: there.get(name) or raising(wheels.PackageNotFoundError(name)))
    assert wheels.missing() == []
    assert wheels.install_missing(tmp_path, tmp_path / "site") == []
    there |= {"deepspeed": "0.18.0", "rich": "13.0"}
    del there["hjson"]
    assert wheels.missing() == ["deepspeed", "hjson"]
    del there["pydantic"]
    assert set(wheels.missing()) == {"deepspeed", "hjson", *wheels.TOGETHER}
    with pytest.raises(ValueError, match=r"deepspeed, .* cannot be installed from .*: run make gpu-wheels|No matching"):
        wheels.install_missing(tmp_path, tmp_path / "site")


def test_a_folder_of_wheels_must_be_empty_before_it_is_filled(tmp_path: Path) -> None:
    (tmp_path / "other.whl").touch()
    with pytest.raises(ValueError, match="is not empty"):
        wheels.make(tmp_path)
