"""DPO, SimPO and LOGO over shared prompts, compared with plain autograd on whole sequences with full logits."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models import DecoderConfig
from models.attention import Documents, shared
from models.decoder import build
from models.losses.pair_batch import Answered, log_probabilities, pair_batch
from models.losses.pair_loss import PairLoss

CPU = torch.device("cpu")
CONFIG = DecoderConfig(vocab_size=48, layers=2, width=16, heads=4, kv_heads=2, ffn=24, max_seq_len=64, end_of_text=0)
LENGTHS = [(3, (4, 2)), (1, (1, 3, 2)), (9, (6, 6, 1))]
"""Tokens of prompts and answers; end-of-text does not end a sequence here."""


def drawn(lengths=LENGTHS, positions=False):
    """Return random prompts with answers."""
    rng = np.random.default_rng(1)
    rows = []
    for prompt, answers in lengths:
        places = np.cumsum(rng.integers(1, 5, prompt + max(answers))) if positions else None
        rows.append(Answered(rng.integers(0, 48, prompt), [rng.integers(0, 48, size) for size in answers], places))
    return rows


def model(scale=6.0):
    """Return a decoder whose losses differ from token to token."""
    decoder = build(CONFIG, 0)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(scale if parameter.dim() > 1 else 1)
    return decoder


def token_log_probabilities(decoder, row, answer):
    """Return log p of every token of an answer, from the logits of the whole sequence, [tokens]."""
    ids = torch.from_numpy(np.concatenate([row.prompt, answer]))
    positions = None if row.positions is None else torch.from_numpy(row.positions[: len(ids) - 1])[None]
    hidden_BTW = decoder.hidden(ids[None, :-1], Documents((len(ids) - 1,)), positions)
    logits_TV = decoder.head(hidden_BTW)[0].log_softmax(dim=-1)
    return logits_TV.gather(1, ids[1:, None])[len(row.prompt) - 1 :, 0]


def by_autograd(name, decoder, rows, reference, beta, gamma, weight):
    """Return the mean loss, written from the papers' formulas."""
    losses = []
    for number, row in enumerate(rows):
        chosen, *rejected = [token_log_probabilities(decoder, row, answer) for answer in row.answers]
        if name == "logo":
            mean = sum(part.mean() for part in rejected) / len(rejected)
            loss = -torch.log(torch.sigmoid(beta * chosen.mean() - beta * mean - gamma))
        elif name == "simpo":
            loss = sum(-torch.log(torch.sigmoid(beta * (chosen.mean() - part.mean()) - gamma)) for part in rejected)
            loss = loss / len(rejected)
        else:
            first, *rest = reference[number]
            ratios = [part.sum() - value for part, value in zip(rejected, rest, strict=True)]
            loss = sum(-torch.log(torch.sigmoid(beta * (chosen.sum() - first - ratio))) for ratio in ratios)
            loss = loss / len(rejected)
        losses.append(loss + weight * -chosen.mean())
    return sum(losses) / len(losses)


@pytest.mark.parametrize("bundle", [shared.BUNDLE, 0], ids=["bundled", "long"])
@pytest.mark.parametrize(("name", "weight"), [("dpo", 0.0), ("simpo", 0.2), ("logo", 0.1)])
def test_loss_and_gradients_equal_autograd_on_whole_sequences(name, weight, bundle, monkeypatch):
    monkeypatch.setattr(shared, "BUNDLE", bundle)
    rows, decoder = drawn(positions=bundle == 0), model()
    reference = [[-5.0 - 2 * number for number, _ in enumerate(row.answers)] for row in rows]
    batch = pair_batch(rows)
    logp_Q = log_probabilities(decoder, batch, CPU)
    gamma = 0.0 if name == "dpo" else 0.3
    reference_Q = torch.tensor([value for values in reference for value in values])
    ours = PairLoss(name, 0.7, gamma, weight)(logp_Q, batch, reference_Q).loss_P.mean()
    expected = by_autograd(name, decoder, rows, reference, 0.7, gamma, weight)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    parameters = list(decoder.parameters())
    for mine, plain in zip(
        torch.autograd.grad(ours, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-5 * plain.abs().max().item())


def test_logo_with_one_rejected_answer_and_no_lambda_is_simpo():
    batch = pair_batch(drawn([(3, (4, 2)), (2, (1, 5))]))
    logp_Q = log_probabilities(model(), batch, CPU)
    logo, simpo = (PairLoss(name, 2.0, 0.5)(logp_Q, batch) for name in ("logo", "simpo"))
    for one, other in zip(logo, simpo, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0)
    assert (logo.loss_P > 0).all()


def test_dpo_starts_at_the_logarithm_of_two_and_its_metrics_are_trl_s():
    rows = drawn()
    batch = pair_batch(rows)
    logp_Q = log_probabilities(model(), batch, CPU).detach()
    found = PairLoss("dpo", 0.1)(logp_Q, batch, logp_Q)
    assert found.loss_P.tolist() == pytest.approx([math.log(2)] * 3)
    assert found.accuracy_P.tolist() == [0, 0, 0]  # no answer is above another: TRL counts a tie as a failure
    reference_Q = logp_Q + torch.tensor([-1.0, 1, 0, -2, 1, 0, 4, -3])
    shown = PairLoss("dpo", 0.5)(logp_Q, batch, reference_Q).shown()
    assert shown["rewards/chosen"].tolist() == pytest.approx([0.5, 0.0, 0.0], abs=1e-5)
    assert shown["rewards/rejected"].tolist() == pytest.approx([-0.5, 0.25, -0.25], abs=1e-5)
    assert shown["rewards/margins"].tolist() == pytest.approx([1.0, -0.25, 0.25], abs=1e-5)
    assert shown["rewards/accuracies"].tolist() == [1.0, 0.5, 0.5]
    torch.testing.assert_close(shown["logps/chosen"], logp_Q[[0, 2, 5]])


def test_the_batch_holds_every_prompt_once_and_no_padding():
    rows = drawn()
    batch = pair_batch(rows)
    tokens = sum(len(row.prompt) - 1 + sum(map(len, row.answers)) for row in rows)
    assert batch.ids_BS.shape == (1, tokens + 1)
    assert batch.documents.lengths == tuple(len(r.prompt) - 1 + sum(map(len, r.answers)) for r in rows)
    assert batch.positions_BT[0, :8].tolist() == [0, 1, 2, 3, 4, 5, 2, 3]
    assert torch.equal(batch.labels_A, torch.from_numpy(np.concatenate([a for row in rows for a in row.answers])))
    assert F.one_hot(batch.places_A, tokens).sum(dim=0).max() == 1  # no input predicts two labels


def kept_bytes(forward):
    """Return the bytes of the distinct storages that a forward pass keeps for the backward pass."""
    sizes = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = forward()  # alive, so that no storage is used twice
    assert found.requires_grad
    return sum(sizes.values())


def test_three_answers_keep_little_more_than_one_sequence_of_that_length():
    (row,) = drawn([(500, (12, 12, 12))])
    decoder, batch = model(1.0), pair_batch([row])
    ids_BS = torch.from_numpy(np.concatenate([row.prompt, row.answers[0]]))[None]
    one = kept_bytes(lambda: decoder(ids_BS, Documents((ids_BS.shape[1] - 1,))).total)
    three = kept_bytes(lambda: PairLoss("logo", 10.0, 3.0, 0.1)(log_probabilities(decoder, batch, CPU), batch).loss_P)
    assert three < 1.15 * one
    apart = [Answered(row.prompt, [row.answers[0], answer]) for answer in row.answers[1:]]
    two = kept_bytes(
        lambda: PairLoss("simpo", 2.0)(log_probabilities(decoder, pair_batch(apart), CPU), pair_batch(apart)).loss_P
    )
    assert two > 1.8 * one  # the count sees what two prompts keep
