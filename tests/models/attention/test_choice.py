"""Which backend is chosen, and what each rejects: the message names the value and a backend that supports it."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from models.attention import BACKENDS, choose, passed_over
from models.attention.backend import ANY_FLOAT, HALF
from models.config import ATTENTION_BACKENDS, DecoderConfig
from models.decoder import build
from models.optional import import_problem

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TINY = DecoderConfig(vocab_size=50, layers=1, width=16, heads=2, kv_heads=1, ffn=24, max_seq_len=32)


@pytest.fixture(autouse=True)
def _fresh_imports():
    import_problem.cache_clear()
    yield
    import_problem.cache_clear()


def with_flash(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    """Let flash-attn look installed, or not."""
    monkeypatch.setitem(sys.modules, "flash_attn", ModuleType("flash_attn") if there else None)


def with_broken_flash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str) -> None:
    """Install a flash-attn whose import fails."""
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("raise ImportError('flash_attn_2_cuda.so: undefined symbol: _ZN3c1\\nmore')", "undefined symbol: _ZN3c1)"),
        ("raise OSError('libcudart.so.11.0: cannot open shared object file')", "(OSError: libcudart.so.11.0: cannot"),
        ("import flash_attn_2_cuda", "(ModuleNotFoundError: No module named 'flash_attn_2_cuda')"),
    ],
)
def test_a_build_that_cannot_be_imported_is_passed_over_with_the_reason(monkeypatch, tmp_path, line, reason):
    with_broken_flash(monkeypatch, tmp_path, line)
    assert choose("auto", 64, torch.bfloat16, CUDA).name == "varlen"
    passed = passed_over(64, torch.bfloat16, CUDA)
    assert passed.keys() == {"flash"}
    assert "needs the package flash-attn, whose installed build cannot be imported" in passed["flash"]
    assert reason in passed["flash"]
    with pytest.raises(ValueError, match=r"attention=flash needs the package flash-attn, whose .*use attention=varlen"):
        choose("flash", 64, torch.bfloat16, CUDA)


def test_only_faster_backends_are_passed_over(monkeypatch):
    with_flash(monkeypatch, False)
    assert passed_over(64, torch.bfloat16, CUDA) == {"flash": "needs the package flash-attn, which is not installed"}
    assert passed_over(64, torch.bfloat16, CPU) == passed_over(64, torch.float32, CUDA) == {}
    assert passed_over(36, torch.bfloat16, CUDA).keys() == {"flash", "varlen"}


def test_every_backend_is_the_one_of_its_file():
    assert tuple(BACKENDS) == ATTENTION_BACKENDS
    assert all(name == backend.name for name, backend in BACKENDS.items())


@pytest.mark.parametrize(
    ("flash", "head_size", "dtype", "device", "chosen"),
    [
        (True, 64, torch.bfloat16, CUDA, "flash"),
        (True, 256, torch.float16, CUDA, "flash"),
        (False, 64, torch.bfloat16, CUDA, "varlen"),
        (True, 264, torch.bfloat16, CUDA, "flex"),
        (True, 36, torch.bfloat16, CUDA, "flex"),
        (True, 64, torch.float32, CUDA, "sdpa"),
        (True, 64, torch.bfloat16, CPU, "blocks"),
        (True, 64, torch.float32, CPU, "sdpa"),
        (True, 64, torch.float64, CPU, "sdpa"),
    ],
)
def test_auto_takes_the_fastest_that_can(monkeypatch, flash, head_size, dtype, device, chosen):
    with_flash(monkeypatch, flash)
    assert choose("auto", head_size, dtype, device).name == chosen


@pytest.mark.parametrize("dtype", ANY_FLOAT, ids=str)
@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
@pytest.mark.parametrize("head_size", [2, 8, 20, 64, 512])
@pytest.mark.parametrize("gradients", [True, False])
def test_auto_and_the_backend_that_a_refusal_names_always_can(monkeypatch, dtype, device, head_size, gradients):
    with_flash(monkeypatch, False)
    for name in ("auto", *BACKENDS):
        try:
            choose(name, head_size, dtype, device, gradients=gradients)
        except ValueError as error:
            named = re.search(r"use attention=(\w+), or auto", str(error))
            assert named
            assert name != "auto"
            choose(named[1], head_size, dtype, device, gradients=gradients)


@pytest.mark.parametrize(
    ("name", "head_size", "dtype", "device", "message"),
    [
        ("flash", 64, torch.bfloat16, CPU, "attention=flash runs only on cuda, not on cpu: use attention=blocks"),
        ("varlen", 64, torch.float32, CPU, "attention=varlen runs only on cuda, not on cpu: use attention=sdpa"),
        ("flash", 64, torch.float32, CUDA, "attention=flash cannot compute in float32: use attention=sdpa"),
        ("varlen", 64, torch.float32, CUDA, "attention=varlen cannot compute in float32: use attention=sdpa"),
        ("flash", 320, torch.bfloat16, CUDA, "a multiple of 8 of at most 256, not 320: use attention=flex"),
        ("varlen", 20, torch.float16, CUDA, "a multiple of 8 of at most 256, not 20: use attention=flex"),
        ("flex", 64, torch.float32, CPU, "attention=flex has no backward pass on cpu: use attention=sdpa"),
        ("flex", 64, torch.float64, CUDA, "attention=flex cannot compute in float64: use attention=sdpa"),
        ("blocks", 64, torch.bfloat16, CUDA, "attention=blocks runs only on cpu, not on cuda: use attention=varlen"),
        ("blocks", 64, torch.float64, CPU, "attention=blocks cannot compute in float64: use attention=sdpa"),
        ("flash", 64, torch.bfloat16, CUDA, "flash-attn, which is not installed: use attention=varlen"),
        ("paged", 64, torch.bfloat16, CPU, "attention='paged' is unknown: use auto or one of flash, varlen"),
    ],
)
def test_refusals_name_the_value_and_a_backend_that_can(monkeypatch, name, head_size, dtype, device, message):
    with_flash(monkeypatch, False)
    with pytest.raises(ValueError, match=re.escape(message)):
        choose(name, head_size, dtype, device)


def test_an_old_varlen_is_no_varlen(monkeypatch):
    def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False):
        raise AssertionError

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    with_flash(monkeypatch, False)
    with pytest.raises(ValueError, match=r"takes window_size and enable_gqa, not torch .*: use attention=flex"):
        choose("varlen", 64, torch.bfloat16, CUDA)
    assert choose("auto", 64, torch.bfloat16, CUDA).name == "flex"


def test_a_decoder_refuses_at_its_door():
    ids_BT = torch.ones(1, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="attention=flash runs only on cuda"):
        build(replace(TINY, attention="flash"), 0).hidden(ids_BT)
    with pytest.raises(ValueError, match="attention=flex has no backward pass on cpu"):
        build(replace(TINY, attention="flex"), 0).hidden(ids_BT)
    with pytest.raises(ValueError, match=r"model\.attention='flush' is unknown: use one of auto, flash"):
        replace(TINY, attention="flush")


def test_half_types_are_those_of_the_flash_kernels():
    assert set(HALF) == {torch.float16, torch.bfloat16}
