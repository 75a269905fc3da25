import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from models.kernels import plain
from models.kernels.interface import IGNORED
from models.losses import cross_entropy as module
from models.losses.cross_entropy import linear_cross_entropy


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
def test_no_gradients_are_made_where_none_are_needed(mode):
    asked = []

    def spy(*args):
        asked.append(args[-1])
        plain.cross_entropy_(*args)

    kernels = dataclasses.replace(plain.KERNELS, cross_entropy_=spy)
    hidden, weight = torch.randn(4, 8), torch.nn.Parameter(torch.randn(10, 8))
    with mode():
        total, _ = linear_cross_entropy(hidden, weight, torch.tensor([1, 2, 3, 4]), kernels=kernels)
    assert not total.requires_grad
    assert asked == [False]


@pytest.mark.parametrize("chunk_logits", [1 << 24, 50 * 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_z_loss_is_in_the_total_and_not_in_the_losses(monkeypatch, chunk_logits, dtype):
    monkeypatch.setattr(module, "CHUNK_LOGITS", chunk_logits)
    torch.manual_seed(0)
    hidden, weight = torch.randn(23, 16).to(dtype).requires_grad_(), torch.randn(50, 16).to(dtype).requires_grad_()
    labels = torch.randint(0, 50, (23,))
    labels[[0, 9]] = IGNORED
    total, losses = linear_cross_entropy(hidden, weight, labels, z_loss=0.01)
    (total / 21).backward()
    ours = (total, losses, hidden.grad, weight.grad)
    hidden.grad = weight.grad = None
    logits = (hidden @ weight.T).float()
    expected = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
    squares = logits.logsumexp(dim=1).square()[labels != IGNORED]
    whole = expected.sum() + 0.01 * squares.sum()
    (whole / 21).backward()
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    for mine, theirs in zip(ours, (whole, expected, hidden.grad, weight.grad), strict=True):
        torch.testing.assert_close(mine, theirs, **close)


@pytest.mark.parametrize("chunk_logits", [1 << 24, 50 * 7, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("z_loss", [0.0, 0.01])
def test_weights_multiply_each_tokens_part_of_the_total_and_its_gradients(monkeypatch, chunk_logits, dtype, z_loss):
    monkeypatch.setattr(module, "CHUNK_LOGITS", chunk_logits)
    torch.manual_seed(0)
    hidden, weight = torch.randn(23, 16).to(dtype).requires_grad_(), torch.randn(50, 16).to(dtype).requires_grad_()
    labels, weights = torch.randint(0, 50, (23,)), torch.randn(23) * 3
    labels[[0, 9]] = IGNORED
    weights[[2, 5, 9]], weights[[3, 4]] = 0.0, -1.0
    total, losses = linear_cross_entropy(hidden, weight, labels, weights_N=weights, z_loss=z_loss)
    (total / 21).backward()
    exact_hidden, exact_weight = (x.detach().float().requires_grad_() for x in (hidden, weight))
    logits = exact_hidden @ exact_weight.T
    expected = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
    penalty = z_loss * logits.logsumexp(dim=1).square() * (labels != IGNORED)
    whole = (weights * (expected + penalty)).sum()
    (whole / 21).backward()
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    found = (total, losses, hidden.grad, weight.grad)
    for ours, theirs in zip(found, (whole, expected, exact_hidden.grad, exact_weight.grad), strict=True):
        scale = theirs.abs().max().clamp(min=1e-3)
        torch.testing.assert_close(ours.float() / scale, theirs / scale, rtol=tolerance, atol=tolerance)
    assert not losses.requires_grad
    assert hidden.grad[[0, 2, 5, 9]].eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_of_one_change_no_digit_and_weights_of_zero_equal_ignored_labels(monkeypatch, dtype):
    monkeypatch.setattr(module, "CHUNK_LOGITS", 50 * 7)
    torch.manual_seed(0)
    hidden, weight = torch.randn(23, 16).to(dtype).requires_grad_(), torch.randn(50, 16).to(dtype).requires_grad_()
    labels = torch.randint(0, 50, (23,))
    ignored = labels.clone()
    ignored[[1, 20]] = IGNORED
    zeros = torch.ones(23)
    zeros[[1, 20]] = 0.0

    def run(labels, weights):
        total, _ = linear_cross_entropy(hidden, weight, labels, weights_N=weights, z_loss=0.01)
        return total, *torch.autograd.grad(total, (hidden, weight))

    for one, other in zip(run(labels, None), run(labels, torch.ones(23)), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(run(ignored, None), run(labels, zeros), strict=True):
        torch.testing.assert_close(one, other)


def test_a_weight_is_not_rounded_to_bfloat16():
    torch.manual_seed(0)
    hidden, weight = torch.randn(256, 64).bfloat16().requires_grad_(), torch.randn(50, 64).bfloat16().requires_grad_()
    labels = torch.randint(0, 50, (256,))
    norms = []
    for factor in (1.0, 1.25 + 1 / 256):  # between two numbers of bfloat16, 1.25 and the next
        total, _ = linear_cross_entropy(hidden, weight, labels, weights_N=torch.full((256,), factor))
        gradients = torch.autograd.grad(total, (hidden, weight))
        norms.append(torch.stack([total.detach(), *(gradient.float().norm() for gradient in gradients)]))
    torch.testing.assert_close(norms[1] / norms[0], torch.full((3,), 1.25 + 1 / 256), rtol=5e-4, atol=0.0)


def test_ignored_tokens_pass_nothing_on():
    hidden, weight = torch.randn(4, 8), torch.randn(10, 8, requires_grad=True)
    total, _ = linear_cross_entropy(hidden.requires_grad_(), weight, torch.tensor([1, 2, IGNORED, 4]))
    total.backward()
    assert hidden.grad[2].eq(0).all()
    finite = torch.cat([hidden[:2], hidden[3:]]).detach()
    expected = torch.autograd.grad(F.cross_entropy(finite @ weight.T, torch.tensor([1, 2, 4]), reduction="sum"), weight)
    torch.testing.assert_close(weight.grad, expected[0], rtol=1e-5, atol=1e-5)


def test_losses_stay_exact_where_the_probability_of_the_label_underflows():
    hidden, weight = torch.eye(2), torch.tensor([[200.0, 0.0], [0.0, 30.0], [0.0, 0.0]])
    _, losses = linear_cross_entropy(hidden, weight, torch.tensor([1, 1]))
    torch.testing.assert_close(losses, torch.tensor([200.0, 2 * math.exp(-30)]), rtol=1e-6, atol=1e-7)


def test_a_second_backward_pass_is_refused():
    hidden = torch.randn(4, 8, requires_grad=True)
    total, _ = linear_cross_entropy(hidden, torch.randn(10, 8), torch.tensor([1, 2, 3, 4]))
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second backward pass"):
        total.backward()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_does_not_grow_with_vocabulary_times_tokens(monkeypatch, live_bytes, dtype, weighted):
    monkeypatch.setattr(module, "CHUNK_LOGITS", 1 << 14)
    monkeypatch.setattr(plain, "BLOCK_LOGITS", 1 << 12)

    def excess(tokens, vocabulary, width=8):
        hidden, weight = torch.randn(tokens, width).to(dtype).requires_grad_(), torch.randn(vocabulary, width).to(dtype)
        labels, weights = torch.randint(0, vocabulary, (tokens,)), torch.randn(tokens) if weighted else None
        with live_bytes() as bytes_:
            total, _ = linear_cross_entropy(hidden, weight.requires_grad_(), labels, weights_N=weights)
            total.backward()
        gradients = hidden.numel() * hidden.element_size() + weight.numel() * (4 + 2 * weight.element_size())
        return bytes_.peak - gradients

    small, large = excess(128, 1024), excess(1024, 2048)
    assert large < 3 * 4 * (1 << 14)  # all logits in float32 would be 8 MiB
    assert large - small < 32 * 1024  # kept per token: labels, losses, masks
