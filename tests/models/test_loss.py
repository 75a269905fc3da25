import pytest
import torch
import torch.nn.functional as F

from models import loss as module
from models.loss import IGNORED, linear_cross_entropy


@pytest.mark.parametrize("chunk_logits", [1 << 24, 50 * 7, 1])
def test_equals_cross_entropy_at_any_chunk(monkeypatch, chunk_logits):
    monkeypatch.setattr(module, "CHUNK_LOGITS", chunk_logits)
    torch.manual_seed(0)
    labels = torch.randint(0, 50, (23,))
    labels[[3, 22]] = IGNORED
    grads = []
    for fused in (True, False):
        torch.manual_seed(1)
        hidden, weight = torch.randn(23, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
        if fused:
            total, losses = linear_cross_entropy(hidden, weight, labels)
            assert (losses[[3, 22]] == 0).all()
            assert not losses.requires_grad
        else:
            losses = F.cross_entropy(hidden @ weight.T, labels, ignore_index=IGNORED, reduction="none")
            total = losses.sum()
        (total * 0.25).backward()
        grads.append((total.detach(), losses.detach(), hidden.grad, weight.grad))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_losses_are_float32_in_bfloat16():
    torch.manual_seed(0)
    hidden, weight, labels = torch.randn(64, 32), torch.randn(100, 32), torch.randint(0, 100, (64,))
    exact = F.cross_entropy(hidden @ weight.T, labels)
    total, losses = linear_cross_entropy(hidden.bfloat16().requires_grad_(), weight.bfloat16(), labels)
    assert losses.dtype == total.dtype == torch.float32
    torch.testing.assert_close(losses.mean(), exact, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_gradients_are_made_where_none_are_needed(monkeypatch, mode):
    def fail(*_):
        raise AssertionError("a gradient was computed")

    monkeypatch.setattr(module, "_slope_", fail)
    hidden, weight = torch.randn(4, 8), torch.nn.Parameter(torch.randn(10, 8))
    with mode():
        total, _ = linear_cross_entropy(hidden, weight, torch.tensor([1, 2, 3, 4]))
    assert not total.requires_grad
