"""What a block keeps, recomputes and compiles."""

import pytest
import torch

from models import block_runner
from models.config import DecoderConfig
from models.decoder import build
from models.execution import ExecutionSettings

TINY = DecoderConfig(vocab_size=50, layers=4, width=16, heads=4, kv_heads=2, ffn=24, max_seq_len=32, end_of_text=0)
MODES = [
    ExecutionSettings(checkpointing="selective"),
    ExecutionSettings(checkpointing="every", checkpoint_every=2),
    ExecutionSettings(checkpointing="full"),
]


def batch(rows=2, tokens=24, seed=0, vocabulary=50):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocabulary, (rows, tokens + 1), generator=generator)
    ids[:, -3:] = torch.tensor([4, -100, -100])
    return ids


def losses_and_gradients(decoder, ids):
    decoder.zero_grad()
    out = decoder(ids)
    out.total.backward()
    return [out.total.detach(), out.losses_BT, *(p.grad for p in decoder.parameters())]


@pytest.mark.parametrize("execution", MODES, ids=lambda e: e.checkpointing)
def test_recomputed_gradients_are_the_same_to_the_bit(execution):
    ids = batch()
    kept = losses_and_gradients(build(TINY, 0), ids)
    recomputed = losses_and_gradients(build(TINY, 0, execution), ids)
    assert all(torch.equal(a, b) for a, b in zip(kept, recomputed, strict=True))


def shape(kv_heads, layers):
    return DecoderConfig(
        vocab_size=64, layers=layers, width=256, heads=8, kv_heads=kv_heads, ffn=704, max_seq_len=128, end_of_text=0
    )


def two_samples(*, packed):
    ids = torch.randint(1, 64, (2, 129), generator=torch.Generator().manual_seed(0))
    if packed:
        ids[0, 17] = ids[0, 70] = ids[1, 99] = 0
    return ids


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kv_heads", [8, 2])
def test_a_layer_keeps_what_the_formula_says(saved_bytes, kv_heads, packed):
    """12 + 4r + 6f/h bytes per token and channel in bfloat16, within 3 %.

    The 3 % cover attention's logsumexp (4 bytes per token and head) and the norms' statistics (8 per token). Packed
    samples keep 2 more bytes per token and channel, where documents' outputs are concatenated for the next product.
    """
    kept = []
    for layers in (1, 2):
        decoder = build(shape(kv_heads, layers), 0).bfloat16()
        ids = two_samples(packed=packed)
        kept.append(saved_bytes(lambda d=decoder, i=ids: d(i), decoder.parameters()))
    per_channel = (kept[1] - kept[0]) / (2 * 128 * 256)
    formula = 12 + 4 * kv_heads / 8 + 6 * 704 / 256
    assert 0.97 * formula < per_channel < 1.03 * (formula + 2 * packed)


def test_recomputing_keeps_less(live_bytes):
    """Bytes per token, channel and layer in bfloat16 kept for the backward pass, with as many heads as key heads."""
    layers, width = 4, 256
    kept = {}
    for execution in (ExecutionSettings(), *MODES):
        decoder = build(shape(8, layers), 0, execution).bfloat16()
        with live_bytes() as bytes_:
            out = decoder.hidden(two_samples(packed=False)[:, :-1])
            kept[execution.checkpointing] = (bytes_.now - out.nbytes) / (2 * 128 * width * layers)
    whole = 12 + 4 + 6 * 704 / width
    shared = 1.5  # embedding output, last norm, rotary table, documents: once, divided by 4 layers
    assert whole <= kept["none"] <= whole + shared
    assert 10 <= kept["selective"] <= 10 + shared  # the stream, queries, keys, values and attention's output
    assert 2 <= kept["full"] <= 2 + shared  # the stream
    assert (whole + 2) / 2 <= kept["every"] <= (whole + 2) / 2 + shared


@pytest.fixture
def compiled(monkeypatch):
    """Run compiled parts through dynamo and AOTAutograd but not the slow code generator; collect the graphs."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    parts = block_runner.parts(compiled=True, backend=backend)
    monkeypatch.setattr(
        block_runner, "parts", lambda *, compiled: parts if compiled else block_runner.Parts(None, None)
    )
    yield graphs
    torch._dynamo.reset()


@pytest.mark.parametrize("mode", ["none", "full"])  # selective: tests/train/engine/test_zero3.py
def test_compiled_parts_are_two_whole_graphs_whatever_the_documents(compiled, mode):
    decoder = build(TINY, 0, ExecutionSettings(compile=True, checkpointing=mode))
    eager = build(TINY, 0)
    for seed in range(4):
        ids = batch(seed=seed) if seed else batch().clamp(min=1)  # first without documents
        ours = losses_and_gradients(decoder, ids)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                block_runner, "parts", lambda *, compiled: block_runner.Parts(block_runner._qkv, block_runner._finish)
            )
            theirs = losses_and_gradients(eager, ids)
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
    assert not torch._dynamo.utils.counters["graph_break"]
    # One graph per part, shared by all four blocks and all four document layouts.
    assert len(compiled) == 2


def test_the_compiler_is_off_unless_it_is_asked_for():
    assert block_runner.parts(compiled=False) == block_runner.Parts(block_runner._qkv, block_runner._finish)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernels": "cuda"}, r"execution.kernels='cuda' is unknown: use one of auto, plain, liger"),
        ({"checkpointing": "half"}, r"execution.checkpointing='half' is unknown"),
        ({"checkpointing": "every", "checkpoint_every": 0}, r"execution.checkpoint_every=0 must be at least 1"),
    ],
)
def test_unknown_ways_to_run_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        ExecutionSettings(**changes)
