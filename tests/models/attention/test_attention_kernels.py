"""Calls to the kernels that need a GPU: fakes with the real signatures check the arguments and the numbers."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from models.attention import BACKENDS, Documents
from tests.attention_fakes import Call, fake_flash, fake_varlen

CPU = torch.device("cpu")
LENGTHS = (5, 1, 17, 9)


def parameters_of(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    """Return a function's parameters without their annotations."""
    return [(part.name, part.kind, part.default) for part in inspect.signature(function).parameters.values()]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Replace the kernels by the fakes and collect the calls they receive."""
    made: list[Call] = []
    package = ModuleType("flash_attn")
    package.flash_attn_varlen_func = fake_flash(made)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", fake_varlen(made))
    return made


def parts(kv_heads: int) -> list[Tensor]:
    """Return queries, keys and values of 4 heads, and a gradient of the output, in bf16."""
    torch.manual_seed(0)
    return [torch.randn(sum(LENGTHS), heads, 16).bfloat16() for heads in (4, kv_heads, kv_heads, 4)]


def both_passes(backend: str, kv_heads: int) -> list[Tensor]:
    """Return the output and the gradients of queries, keys and values."""
    documents = Documents(LENGTHS)
    *inputs, grad = parts(kv_heads)
    for part in inputs:
        part.requires_grad_()
    out = BACKENDS[backend].attend(*inputs, BACKENDS[backend].layout(documents, CPU))
    out.backward(grad)
    return [out.detach(), *(part.grad for part in inputs)]


def test_the_fake_varlen_has_the_signature_of_the_installed_one():
    from torch.nn.attention.varlen import varlen_attn

    assert parameters_of(fake_varlen([])) == parameters_of(varlen_attn)


def test_the_fake_flash_has_the_signature_of_the_installed_one():
    flash_attn = pytest.importorskip("flash_attn", reason="flash-attn needs a GPU")
    assert parameters_of(fake_flash([])) == parameters_of(flash_attn.flash_attn_varlen_func)


@pytest.mark.parametrize("backend", ["flash", "varlen"])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_the_kernels_get_what_they_ask_for_and_compute_the_same(calls, backend, kv_heads):
    ours, exact = both_passes(backend, kv_heads), both_passes("reference", kv_heads)
    assert len(calls) == 1
    for one, other in zip(ours, exact, strict=True):
        error = (one.float() - other.float()).abs().max() / other.float().abs().max()
        assert error <= 2e-2


def test_flash_is_deterministic_when_torch_is(calls):
    for wanted in (True, False):
        torch.use_deterministic_algorithms(wanted)
        try:
            both_passes("flash", 2)
        finally:
            torch.use_deterministic_algorithms(False)
    assert [call["deterministic"] for call in calls] == [True, False]


@pytest.mark.parametrize("kv_heads", [2, 4])
def test_the_installed_varlen_takes_the_call(kv_heads):
    """Only shapes, through torch's own checks, in both passes: no kernel runs on the meta device."""
    inputs = [part.to("meta").requires_grad_() for part in parts(kv_heads)[:3]]
    layout = BACKENDS["varlen"].layout(Documents(LENGTHS), torch.device("meta"))
    out = BACKENDS["varlen"].attend(*inputs, layout)
    assert (out.shape, out.dtype) == (inputs[0].shape, torch.bfloat16)
    out.sum().backward()
    assert [part.grad.shape for part in inputs] == [part.shape for part in inputs]


def test_nothing_heavy_is_imported_until_it_attends():
    import subprocess

    heavy = [
        "flash_attn",
        "torch.nn.attention.varlen",
        "torch.nn.attention.flex_attention",
        "torch._inductor.compile_fx",
    ]
    code = f"import sys, models.attention; print([name for name in {heavy} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
