import pytest
import torch

from models import DecoderConfig
from models.decoder import Decoder, build

TINY = DecoderConfig(vocab_size=50, layers=2, width=16, heads=4, kv_heads=2, ffn=24, max_seq_len=32, end_of_text=0)


def batch(rows=3, tokens=20):
    ids = torch.randint(1, 50, (rows, tokens + 1), generator=torch.Generator().manual_seed(0))
    ids[0, 7] = ids[1, 0] = ids[1, 12] = 0
    return ids


@pytest.mark.parametrize("tied", [False, True])
def test_parameter_count_is_what_is_built(tied):
    config = DecoderConfig(**{**TINY.__dict__, "tie_embeddings": tied})
    assert sum(p.numel() for p in build(config, 0).parameters()) == config.parameter_count()


def test_a_packed_sample_costs_what_its_documents_cost_alone():
    decoder, ids = build(TINY, 0), batch()
    packed = decoder(ids).losses_BT[0]
    first, second = decoder(ids[:1, :8]).losses_BT[0], decoder(ids[:1, 7:]).losses_BT[0]
    torch.testing.assert_close(packed, torch.cat([first, second]), rtol=1e-5, atol=1e-5)


def test_losses_follow_from_logits():
    decoder, ids = build(TINY, 0), batch()
    out = decoder(ids)
    expected = torch.nn.functional.cross_entropy(
        decoder.logits(ids[:, :-1]).transpose(1, 2), ids[:, 1:], reduction="none"
    )
    torch.testing.assert_close(out.losses_BT, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.total, expected.sum(), rtol=1e-5, atol=1e-4)


def test_padding_on_the_right_costs_nothing_and_changes_nothing():
    decoder, ids = build(TINY, 0), batch()
    padded = torch.cat([ids, torch.full((3, 5), -100)], dim=1)
    whole = decoder(padded)
    torch.testing.assert_close(whole.losses_BT[:, :20], decoder(ids).losses_BT, rtol=1e-5, atol=1e-5)
    assert (whole.losses_BT[:, 20:] == 0).all()


def test_weights_depend_on_the_seed_alone():
    one, same, other = build(TINY, 1), build(TINY, 1), build(TINY, 2)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.embedding.weight, other.embedding.weight)


def test_it_learns_a_cycle():
    torch.manual_seed(0)
    decoder = build(TINY, 0)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-2)
    ids = (torch.arange(21) % 7 + 1).repeat(4, 1)
    losses = []
    for _ in range(30):
        out = decoder(ids)
        (out.total / out.losses_BT.numel()).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(out.losses_BT.mean().item())
    assert losses[0] == pytest.approx(3.91, abs=0.6)  # log(50), and what random weights add
    assert losses[-1] < 0.3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 18}, "model.width=18"),
        ({"heads": 8, "width": 8}, "even head size"),
        ({"explicit_head_size": 7}, "explicit_head_size=7 must be even"),
        ({"kv_heads": 3}, "kv_heads=3 must divide"),
        ({"layers": 0}, "model.layers must be"),
        ({"end_of_text": 50}, "end_of_text=50 is outside"),
    ],
)
def test_impossible_shapes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        Decoder(DecoderConfig(**{**TINY.__dict__, **changes}))


def test_what_writes_into_the_stream_starts_smaller_the_deeper_the_model():
    """sqrt(2 / (5 * width)), over sqrt(2 * layers) for the outputs of attention and of the feed-forward."""
    config = DecoderConfig(vocab_size=512, layers=8, width=128, heads=4, kv_heads=4, ffn=256, max_seq_len=32)
    base = (2 / (5 * 128)) ** 0.5
    for name, parameter in build(config, 0).named_parameters():
        if parameter.dim() == 1:
            assert parameter.eq(1).all()
        else:
            writes = name.endswith(("attention.o.weight", "ffn.down.weight"))
            assert parameter.std().item() == pytest.approx(base / 4 if writes else base, rel=0.05), name
