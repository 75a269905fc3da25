"""Every backend that runs here matches `reference`, and documents never see each other.

Shapes: N tokens, H query heads, K key/value heads, S head size.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.attention import BACKENDS, Documents, pack
from models.attention.blocks import LONG
from models.config import DecoderConfig
from models.decoder import Decoder, build

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
RUN_HERE = ("sdpa", "blocks")
"""Backends with both passes on the CPU."""

LENGTHS = st.one_of(
    st.lists(st.integers(1, 40), min_size=1, max_size=12),
    st.lists(st.sampled_from([1, 7, 64, 200]), min_size=1, max_size=5),
    st.builds(lambda length, count: [length] * count, st.integers(1, 140), st.integers(1, 4)),
)


def tensors(tokens: int, kv_heads: int, groups: int, head_size: int, dtype: torch.dtype) -> list[Tensor]:
    """Return queries, keys, values, and a gradient of the output."""
    torch.manual_seed(tokens)
    heads = (groups * kv_heads, kv_heads, kv_heads, groups * kv_heads)
    return [torch.randn(tokens, count, head_size).to(dtype) for count in heads]


def both_passes(backend: str, documents: Documents, parts: list[Tensor]) -> list[Tensor]:
    """Return the output and the gradients of queries, keys and values."""
    *inputs, grad = (part.clone() for part in parts)
    inputs = [part.requires_grad_() for part in inputs]
    packed = pack(documents, backend, parts[0].shape[-1], parts[0].dtype, CPU)
    out = packed.attend(*inputs)
    out.backward(grad)
    return [out.detach(), *(part.grad for part in inputs)]


def assert_near(ours: Tensor, exact: Tensor, tolerance: float) -> None:
    """Allow an error of `tolerance` times the largest number; exact zeros may come out as rounding errors."""
    assert ours.shape == exact.shape
    error = (ours.double() - exact.double()).abs().max() / exact.double().abs().max().clamp(min=0.1)
    assert error <= tolerance, f"relative error {error:.1e} is above {tolerance:.0e}"


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("backend", RUN_HERE)
@given(
    lengths=LENGTHS, kv_heads=st.integers(1, 3), groups=st.integers(1, 3), head_size=st.sampled_from([2, 6, 8, 32, 64])
)
@example(lengths=[300, 20, 20, 5, 60, 140], kv_heads=2, groups=3, head_size=64)
@settings(max_examples=12, deadline=None, derandomize=True)
def test_both_passes_equal_the_reference(backend, dtype, lengths, kv_heads, groups, head_size):
    documents = Documents(tuple(lengths))
    parts = tensors(sum(lengths), kv_heads, groups, head_size, dtype)
    exact = both_passes("reference", documents, [part.float() for part in parts])
    for ours, theirs in zip(both_passes(backend, documents, parts), exact, strict=True):
        assert ours.dtype == dtype
        assert_near(ours, theirs, TOLERANCE[dtype])


def test_the_reference_is_softmax_attention_of_each_document():
    documents = Documents((3, 1, 5))
    q, k, v, _ = tensors(9, 2, 2, 8, torch.float64)
    expected = []
    for start, end in ((0, 3), (3, 4), (4, 9)):
        scores = torch.stack([q[start:end, head] @ k[start:end, head // 2].T for head in range(4)]) * 8**-0.5
        scores = scores.masked_fill(torch.ones(end - start, end - start).triu(1).bool(), float("-inf"))
        out = torch.stack([scores[head].softmax(-1) @ v[start:end, head // 2] for head in range(4)])
        expected.append(out.transpose(0, 1))
    packed = pack(documents, "reference", 8, torch.float64, CPU)
    torch.testing.assert_close(packed.attend(q, k, v), torch.cat(expected))


@pytest.mark.parametrize("backend", RUN_HERE)
def test_tensors_may_be_slices_of_larger_ones(backend):
    documents = Documents((5, 9, 9))
    parts = tensors(23, 2, 2, 8, torch.float32)
    whole = torch.cat(parts[:3], dim=1)
    ours = pack(documents, backend, 8, torch.float32, CPU).attend(*whole.split([4, 2, 2], dim=1))
    assert_near(ours, both_passes("reference", documents, parts)[0], 1e-5)


@pytest.mark.parametrize("backend", [*RUN_HERE, "reference"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_gradients_stay_inside_documents_and_behind(backend, dtype):
    lengths = (70, 5, 9, 150, 9)
    ends = torch.tensor(lengths).cumsum(0).tolist()
    documents = Documents(lengths)
    q, k, v, _ = (part.requires_grad_() for part in tensors(sum(lengths), 2, 2, 8, dtype))
    out = pack(documents, backend, 8, dtype, CPU).attend(q, k, v)
    for start, end in zip([0, *ends], ends, strict=False):
        token = (start + end) // 2
        seen = torch.zeros(sum(lengths), dtype=torch.bool)
        seen[start : token + 1] = True
        for part, grad in zip(
            (q, k, v), torch.autograd.grad(out[token].sum(), (q, k, v), retain_graph=True), strict=True
        ):
            assert (grad[~seen] == 0).all()
            assert (grad[token] != 0).any() or part is not v
        assert (torch.autograd.grad(out[token].sum(), v, retain_graph=True)[0][seen] != 0).all()


TINY = DecoderConfig(vocab_size=50, layers=2, width=32, heads=4, kv_heads=2, ffn=24, max_seq_len=32, end_of_text=0)


def sample() -> Tensor:
    """Return two rows of documents: (0-7, 8-19), (0-4, 5-10, 11-19)."""
    ids_BT = torch.randint(1, 50, (2, 20), generator=torch.Generator().manual_seed(0))
    ids_BT[0, 8] = ids_BT[1, 5] = ids_BT[1, 11] = 0
    return ids_BT


@pytest.mark.parametrize("backend", [*RUN_HERE, "reference", "auto"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_gradients_of_a_whole_decoder_stay_inside_documents(backend, dtype):
    decoder = build(replace(TINY, attention=backend), 0).to(dtype)
    embedded: list[Tensor] = []
    decoder.embedding.register_forward_hook(lambda module, inputs, output: embedded.append(output))
    hidden_BTW = decoder.hidden(sample())
    for row, start, end in ((0, 0, 8), (0, 8, 20), (1, 0, 5), (1, 5, 11), (1, 11, 20)):
        (grad_BTW,) = torch.autograd.grad(hidden_BTW[row, start:end].sum(), embedded[0], retain_graph=True)
        inside = torch.zeros(2, 20, dtype=torch.bool)
        inside[row, start:end] = True
        assert (grad_BTW[~inside] == 0).all()
        assert (grad_BTW[inside] != 0).any(dim=-1).all()


@pytest.mark.parametrize("backend", [*RUN_HERE, "reference"])
def test_a_decoder_costs_the_same_with_every_backend(backend):
    ids_BS = torch.cat([sample(), sample()[:, :1]], dim=1)
    ours, plain = build(replace(TINY, attention=backend), 0), build(replace(TINY, attention="reference"), 0)
    for decoder in (ours, plain):
        decoder(ids_BS).total.backward()
    torch.testing.assert_close(ours(ids_BS).losses_BT, plain(ids_BS).losses_BT, rtol=1e-5, atol=1e-5)
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        assert_near(one.grad, other.grad, 1e-5)


def test_flex_equals_the_reference_forward():
    """Compilation takes 2 to 20 seconds on one core: equality, isolation and the decoder share it."""
    decoder = build(replace(TINY, attention="flex"), 0).requires_grad_(False)
    ids_BT = sample()
    plain = Decoder(replace(TINY, attention="reference"))
    plain.load_state_dict(decoder.state_dict())
    hidden_BTW = decoder.hidden(ids_BT)
    torch.testing.assert_close(hidden_BTW, plain.hidden(ids_BT), rtol=1e-5, atol=1e-5)
    other = ids_BT.clone()
    other[0, 8:] = 7
    other[1, 5:11] = 9
    changed = decoder.hidden(other)
    assert torch.equal(changed[0, :8], hidden_BTW[0, :8])
    torch.testing.assert_close(changed[1, :5], hidden_BTW[1, :5], rtol=0, atol=0)


def test_the_padded_end_of_a_row_belongs_to_its_last_document():
    ids_BT = torch.tensor([[5, 5, 0, 5, 0, 0], [0, 5, 5, 5, 5, -100]])
    documents = Documents.of(ids_BT, 0)
    assert documents.lengths == (2, 2, 1, 1, 6)
    assert (documents.rows, documents.tokens, documents.longest) == (2, 12, 6)
    assert documents.bounds().tolist() == [0, 2, 4, 5, 6, 12]
    assert documents.bounds().dtype == torch.int32
    assert documents.numbers().tolist() == [0, 0, 1, 1, 2, 3, 4, 4, 4, 4, 4, 4]
    assert Documents.of(ids_BT, None).lengths == (6, 6)
    assert Documents.of(ids_BT, 9).lengths == (6, 6)


@pytest.mark.parametrize("lengths", [(100,), (3, 4, 5), (60, 60, 60), (64, 64, 1, 1, 1, 130), (1,) * 200, (40, 50, 60)])
def test_blocks_cut_every_token_once(lengths):
    pieces = BACKENDS["blocks"].layout(Documents(lengths), CPU).pieces
    starts = [piece.start for piece in pieces]
    ends = [piece.start + piece.count * piece.length for piece in pieces]
    assert starts == [0, *ends[:-1]]
    assert ends[-1] == sum(lengths)


def test_blocks_keep_inputs_output_and_normalisers_alone():
    documents = Documents((30, 50, 50, 170))
    parts = tensors(300, 2, 2, 16, torch.bfloat16)
    q, k, v = (part.requires_grad_() for part in parts[:3])
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        pack(documents, "auto", 16, torch.bfloat16, CPU).attend(q, k, v)
    heads, kv_heads, size, tokens = 4, 2, 16, 300
    assert sum(kept.values()) == tokens * (2 * size * (2 * heads + 2 * kv_heads) + 4 * heads)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_long_documents_of_blocks_go_back_by_torchs_own_kernel(dtype, tolerance, kv_heads):
    documents = Documents((LONG, LONG, 130, 7))
    generator = torch.Generator().manual_seed(0)
    tokens = sum(documents.lengths)
    q, k, v, grad = (
        torch.randn(tokens, heads, 8, generator=generator).to(dtype) for heads in (2, kv_heads, kv_heads, 2)
    )
    found, wanted = (
        [out, *torch.autograd.grad(out, inputs, grad.to(out.dtype))]
        for backend, inputs in (
            (BACKENDS["blocks"], [x.clone().requires_grad_() for x in (q, k, v)]),
            (BACKENDS["reference"], [x.float().requires_grad_() for x in (q, k, v)]),
        )
        for out in [backend.attend(*inputs, backend.layout(documents, q.device))]
    )
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.float() - theirs).norm() <= tolerance * theirs.norm()
