"""Plain kernels against the formulas; Liger's against plain, in Triton's interpreter where possible."""

import inspect
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from models import kernels
from models.kernels import auto_problem, check, choose, plain
from models.optional import import_problem

needs_liger = pytest.mark.skipif(
    find_spec("liger_kernel") is None or find_spec("triton") is None,
    reason="liger-kernel and triton are not installed: pip install 'pdpc[dev]'",
)
TOLERANCE = {torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2}}


def formula_rms_norm(x, weight, eps):
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps) * weight.float()).to(x.dtype)


def formula_swiglu(gate, up):
    return F.silu(gate) * up


def agree(mine, formula, inputs, dtype):
    inputs = [x.to(dtype).requires_grad_() for x in inputs]
    outs = mine(*inputs), formula(*inputs)
    slope = torch.randn_like(outs[0])
    grads = [torch.autograd.grad(out, inputs, slope) for out in outs]
    for ours, theirs in zip((outs[0], *grads[0]), (outs[1], *grads[1]), strict=True):
        assert ours.dtype == dtype
        scale = theirs.float().abs().max().clamp(min=1.0)
        torch.testing.assert_close(ours / scale, theirs / scale, **TOLERANCE[dtype])


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 40), st.sampled_from([torch.float32, torch.bfloat16]))
@settings(max_examples=25, deadline=None)
def test_rms_norm_and_swiglu_equal_their_formulae(rows, tokens, width, dtype):
    torch.manual_seed(rows * 1000 + tokens * 50 + width)
    x, y = 3 * torch.randn(rows, tokens, width), torch.randn(rows, tokens, width)
    agree(lambda a, b: plain.rms_norm(a, b, 1e-5), lambda a, b: formula_rms_norm(a, b, 1e-5), [x, y[0, 0]], dtype)
    agree(plain.swiglu, formula_swiglu, [x, y], dtype)


def test_without_a_gpu_plain_is_chosen_and_liger_is_refused(monkeypatch):
    assert choose("auto", "cpu").name == choose("plain", "cuda").name == "plain"
    with pytest.raises(ValueError, match=r"execution.kernels=liger needs a CUDA device.*use execution.kernels=auto"):
        choose("liger", "cpu")
    import_problem.cache_clear()
    monkeypatch.setitem(sys.modules, "models.kernels.liger", None)
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    with pytest.raises(ValueError, match=r"package liger-kernel.*pip install"):
        check("liger", cuda=True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "liger-kernel" in str(auto_problem(cuda=True))
    import_problem.cache_clear()
    check("auto", cuda=True)


def test_kernels_are_imported_where_they_are_used():
    code = "import sys, models.decoder; print([m for m in ('liger_kernel', 'triton') if m in sys.modules])"
    root = Path(kernels.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"


@needs_liger
def test_calls_fit_the_signatures_of_liger():
    from liger_kernel.ops import LigerRMSNormFunction, LigerRopeFunction, LigerSiLUMulFunction

    def first(function, count):
        return list(inspect.signature(function.forward).parameters)[1 : count + 1]

    assert first(LigerRMSNormFunction, 5) == ["X", "W", "eps", "offset", "casting_mode"]
    assert first(LigerRopeFunction, 4) == ["q", "k", "cos", "sin"]
    assert first(LigerSiLUMulFunction, 2) == ["a", "b"]


def test_the_products_into_a_wider_sum_that_cuda_takes_exist():
    names = {
        torch.ops.aten.addmm.dtype_out: ["self", "mat1", "mat2", "out_dtype", "beta", "alpha", "out"],
        torch.ops.aten.mm.dtype: ["self", "mat2", "out_dtype"],
    }
    for operator, expected in names.items():
        assert [argument.name for argument in operator._schema.arguments] == expected


INTERPRETED = """
import torch
from models.config import DecoderConfig
from models.kernels import liger, plain
from models.kernels.interface import IGNORED
from models.losses.cross_entropy import linear_cross_entropy
from models.rotary import rotary_table

torch.manual_seed(0)

def same(ours, theirs, tolerance=1e-5):
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)

# RoPE, grouped heads, forward and backward
shape = DecoderConfig(vocab_size=50, layers=1, width=32, heads=4, kv_heads=2, ffn=8, max_seq_len=6, rope_theta=100.0)
rotary = rotary_table(shape, 6, torch.device("cpu"))
results = []
for kernels in (plain, liger):
    torch.manual_seed(1)
    q, k = torch.randn(2, 6, 4, 8, requires_grad=True), torch.randn(2, 6, 2, 8, requires_grad=True)
    rotate = plain.KERNELS.rotate if kernels is plain else liger.KERNELS.rotate
    out_q, out_k = rotate(q * 1.0, k * 1.0, rotary)
    (out_q * torch.linspace(0, 1, 8)).sum().add((out_k ** 2).sum()).backward()
    results.append((out_q.detach(), out_k.detach(), q.grad, k.grad))
same(*results)

# cross-entropy of a chunk: losses, squares, slopes; then the linear cross-entropy around it
for z_loss in (0.0, 0.01):
    results = []
    for kernels in (plain, liger):
        torch.manual_seed(2)
        logits, labels = torch.randn(5, 37), torch.randint(0, 37, (5,))
        labels[3] = IGNORED
        losses, squares = torch.zeros(5), torch.zeros(5) if z_loss else None
        kernels.cross_entropy_(logits, labels, losses, squares, z_loss, True)
        real = labels != IGNORED
        results.append((losses, logits[real], *([squares] if z_loss else [])))
    same(*results)

for z_loss, weights in ((0.0, None), (0.01, None), (0.01, torch.linspace(-1, 1, 9))):  # of which one is 0
    results = []
    for kernels in (plain, liger):
        torch.manual_seed(3)
        hidden, weight = torch.randn(9, 16, requires_grad=True), torch.randn(37, 16, requires_grad=True)
        labels = torch.randint(0, 37, (9,))
        labels[4] = IGNORED
        total, losses = linear_cross_entropy(
            hidden, weight, labels, weights_N=weights, z_loss=z_loss, kernels=kernels.KERNELS
        )
        (total / 8).backward()
        results.append((total.detach(), losses, hidden.grad, weight.grad))
    same(*results)
    with torch.no_grad():
        total, losses = linear_cross_entropy(
            hidden, weight, labels, weights_N=weights, z_loss=z_loss, kernels=liger.KERNELS
        )
    same((total, losses), results[0][:2])

# Liger's own fused linear cross-entropy, per token: the same losses and gradients
from liger_kernel.ops import LigerFusedLinearCrossEntropyFunction
hidden.grad = weight.grad = None
losses, *_ = LigerFusedLinearCrossEntropyFunction.apply(hidden, weight, labels, None, None, IGNORED, 0.0, 0.0, "none")
(losses.sum() / 8).backward()
theirs = losses.detach(), hidden.grad, weight.grad
hidden.grad = weight.grad = None
total, losses = linear_cross_entropy(hidden, weight, labels, kernels=plain.KERNELS)
(total / 8).backward()
same((losses, hidden.grad, weight.grad), theirs)
print("interpreted")
"""


@needs_liger
def test_ligers_rope_cross_entropy_and_linear_cross_entropy_equal_plain_in_tritons_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    root = Path(kernels.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], capture_output=True, text=True, cwd=root, env=environment, check=False
    )
    assert done.stdout.strip().endswith("interpreted"), done.stderr[-3000:]
