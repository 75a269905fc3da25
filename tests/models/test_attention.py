import pytest
import torch

from models.attention import attend, attend_reference, document_lengths, rotary_table, rotate


@pytest.mark.parametrize("lengths", [[24], [1, 5, 18], [8, 8, 8], [1] * 24, [23, 1]])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_equals_the_reference_forward_and_backward(lengths, kv_heads):
    torch.manual_seed(0)
    outs, grads = [], []
    for function in (attend, attend_reference):
        torch.manual_seed(1)
        q = torch.randn(24, 4, 8, requires_grad=True)
        k, v = (torch.randn(24, kv_heads, 8, requires_grad=True) for _ in range(2))
        out = function(q, k, v, lengths)
        (out * torch.linspace(0, 1, out.numel()).view_as(out)).sum().backward()
        outs.append(out)
        grads.append((q.grad, k.grad, v.grad))
    torch.testing.assert_close(outs[0], outs[1], rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_no_gradient_crosses_documents():
    q = torch.randn(12, 2, 4)
    k, v = (torch.randn(12, 2, 4, requires_grad=True) for _ in range(2))
    attend(q, k, v, [5, 7])[5:].sum().backward()
    assert (k.grad[:5] == 0).all()
    assert (v.grad[:5] == 0).all()
    assert v.grad[5:].abs().sum() > 0


def test_documents_begin_at_end_of_text_and_at_rows():
    ids = torch.tensor([[5, 5, 0, 5, 0, 0], [0, 5, 5, 5, 5, -100]])
    assert document_lengths(ids, 0) == [2, 2, 1, 1, 6]
    assert document_lengths(ids, None) == [6, 6]
    assert document_lengths(ids, 9) == [6, 6]


def test_rotation_makes_scores_depend_on_distance_alone():
    torch.manual_seed(0)
    cos, sin = rotary_table(16, 8, 10000.0, torch.device("cpu"))
    q, k = torch.randn(8), torch.randn(8)
    turned_q = rotate(q.expand(1, 16, 1, 8), cos, sin)[0, :, 0]
    turned_k = rotate(k.expand(1, 16, 1, 8), cos, sin)[0, :, 0]
    scores = turned_q @ turned_k.T
    for distance in range(1, 8):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-5)
