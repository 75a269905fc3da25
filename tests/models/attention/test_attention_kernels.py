"""Calls to the kernels that need a GPU: fakes with the real signatures check the arguments and the numbers."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from models.attention import BACKENDS, Documents

CPU = torch.device("cpu")
LENGTHS = (5, 1, 17, 9)
Call = dict[str, Any]


def softmax_attention(q_NHS: Tensor, k_NKS: Tensor, v_NKS: Tensor, starts_E: Tensor) -> Tensor:
    """Attend causally between bounds, head by head."""
    shared = q_NHS.shape[1] // k_NKS.shape[1]
    out_NHS = torch.empty_like(q_NHS)
    bounds = starts_E.tolist()
    for start, end in pairwise(bounds):
        hidden = torch.ones(end - start, end - start).triu(1).bool()
        for head in range(q_NHS.shape[1]):
            q, k, v = q_NHS[start:end, head], k_NKS[start:end, head // shared], v_NKS[start:end, head // shared]
            scores = (q.float() @ k.float().T) * q.shape[-1] ** -0.5
            out_NHS[start:end, head] = scores.masked_fill(hidden, float("-inf")).softmax(-1).to(v.dtype) @ v
    return out_NHS


def check_packed(q_NHS: Tensor, k_NKS: Tensor, v_NKS: Tensor, starts_E: Tensor, longest: int) -> None:
    """Check the kernels' requirements: [tokens, heads, size], 16 bits, int32 bounds from 0 to the last token."""
    assert q_NHS.dim() == 3
    assert k_NKS.shape == v_NKS.shape
    assert q_NHS.shape[::2] == k_NKS.shape[::2]
    assert q_NHS.dtype == k_NKS.dtype == v_NKS.dtype == torch.bfloat16
    assert all(x.stride(-1) == 1 for x in (q_NHS, k_NKS, v_NKS))
    assert starts_E.dtype == torch.int32
    assert starts_E.is_contiguous()
    assert (starts_E[0], starts_E[-1]) == (0, len(q_NHS))
    assert type(longest) is int
    assert longest == starts_E.diff().max()


def fake_flash(calls: list[Call]) -> Callable[..., Tensor]:
    """Return a fake with the signature of flash_attn 2.8.3's flash_attn_varlen_func."""

    def flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout_p=0.0,
        softmax_scale=None,
        causal=False,
        window_size=(-1, -1),
        softcap=0.0,
        alibi_slopes=None,
        deterministic=False,
        return_attn_probs=False,
        block_table=None,
    ):
        check_packed(q, k, v, cu_seqlens_q, max_seqlen_q)
        assert torch.equal(cu_seqlens_q, cu_seqlens_k)
        assert max_seqlen_q == max_seqlen_k
        assert causal is True
        rest = (dropout_p, softmax_scale, window_size, softcap, alibi_slopes, return_attn_probs, block_table)
        assert rest == (0.0, None, (-1, -1), 0.0, None, False, None)
        calls.append({"deterministic": deterministic})
        return softmax_attention(q, k, v, cu_seqlens_q)

    return flash_attn_varlen_func


def fake_varlen(calls: list[Call]) -> Callable[..., Tensor]:
    """Return a fake with the signature of torch 2.13's varlen_attn."""

    def varlen_attn(
        query,
        key,
        value,
        cu_seq_q,
        cu_seq_k,
        max_q,
        max_k,
        *,
        return_aux=None,
        scale=None,
        window_size=(-1, -1),
        enable_gqa=False,
        seqused_k=None,
        block_table=None,
        num_splits=None,
    ):
        check_packed(query, key, value, cu_seq_q, max_q)
        assert torch.equal(cu_seq_q, cu_seq_k)
        assert max_q == max_k
        assert window_size == (-1, 0)
        assert enable_gqa is (query.shape[1] != key.shape[1])
        assert (return_aux, scale, seqused_k, block_table, num_splits) == (None,) * 5
        calls.append({})
        return softmax_attention(query, key, value, cu_seq_q)

    return varlen_attn


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
