"""Held-out loss compared with hand-computed sums, and the same values at any number of ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.distributed as dist

from curriculum.tokens.tokens import Tokens
from models.config import DecoderConfig
from models.decoder import build
from models.kernels.interface import IGNORED
from models.losses.cross_entropy import TokenLosses
from tests.torture.forks import Forks
from train.distributed.collectives import RankFailed
from train.distributed.world import World
from train.evaluation.heldout import HeldoutSettings, evaluate_heldout

SEQ_LEN = 8
SINGLE = World(0, 1, 0, 1, torch.device("cpu"))


class Slice:
    """A validation slice in memory: sources "a" (8 samples), "b" (4) and "c" (1); the last of each is short."""

    sources = ("a", "b", "c")
    folder, slice, tokenizer_folder = Path("tokens"), "validation", Path("tokens/tokenizer")
    input_only: int | None = None

    def __init__(self) -> None:
        self.source = np.repeat([0, 1, 2], [8, 4, 1])
        rows = np.random.default_rng(0).integers(1, 50, size=(13, SEQ_LEN + 1))
        for last, length in ((7, 5), (11, 2), (12, 9)):
            rows[last, length:] = IGNORED
        self.rows = rows.astype(np.int64)
        starts = np.isin(np.arange(13 * SEQ_LEN), [0, 20, 22, 64, 96])  # documents span samples, and samples documents
        self.document = (np.cumsum(starts) - 1).reshape(13, SEQ_LEN)

    def __len__(self) -> int:
        return len(self.rows)

    def recheck(self) -> None:
        """Nothing is on disk."""

    def sample(self, ids: npt.ArrayLike) -> npt.NDArray[np.int64]:
        return self.rows[np.asarray(ids)]

    def real_tokens(self, ids: npt.ArrayLike) -> npt.NDArray[np.int64]:
        return (self.sample(ids)[:, 1:] != IGNORED).sum(axis=1)

    def source_of(self, ids: npt.ArrayLike) -> npt.NDArray[np.int64]:
        return self.source[np.asarray(ids)]

    def document_spans(self, ids: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], ...]:
        found = [
            (row, document, int(((self.document[sample] == document) & (self.rows[sample, 1:] != IGNORED)).sum()))
            for row, sample in enumerate(np.asarray(ids))
            for document in np.unique(self.document[sample])
        ]
        return tuple(np.array([span for span in found if span[2]]).T)


SLICE = cast(Tokens, Slice())
PD = np.random.default_rng(1).normal(size=13).astype(np.float32)


def priced(ids_BS: torch.Tensor) -> TokenLosses:
    """A model whose loss for a token, in nats, is its id."""
    labels = ids_BS[:, 1:]
    losses = torch.where(labels == IGNORED, 0, labels).float()
    return TokenLosses(losses.sum(), losses)


def price(rows: npt.NDArray[Any]) -> float:
    labels = rows[:, 1:]
    return float(labels[labels != IGNORED].mean())


def test_losses_are_means_over_real_labels() -> None:
    rows = Slice().rows
    values = evaluate_heldout(priced, SLICE, None, HeldoutSettings(batch_size=3), SINGLE).values
    assert values == pytest.approx(
        {
            "val/loss": price(rows),
            "val/source/a/loss": price(rows[:8]),
            "val/source/b/loss": price(rows[8:12]),
            "val/source/c/loss": price(rows[12:]),
        }
    )


def test_bos_is_no_label() -> None:
    bos = 50
    tokens = Slice()
    tokens.input_only = bos
    tokens.rows[[0, 2, 2, 8, 12], [1, 5, 7, 1, 1]] = bos  # first label of every document

    def model(ids_BS: torch.Tensor) -> TokenLosses:
        labels = ids_BS[:, 1:]
        losses = torch.where((labels == IGNORED) | (labels == bos), 0, labels).float()
        return TokenLosses(losses.sum(), losses)

    found = evaluate_heldout(model, cast(Tokens, tokens), None, HeldoutSettings(batch_size=3), SINGLE)
    plain = tokens.rows.copy()
    plain[plain == bos] = IGNORED
    assert found.values["val/loss"] == pytest.approx(price(plain))
    items = found.answers["val/loss"]
    assert items.weights.sum() == (plain[:, 1:] != IGNORED).sum()
    assert items.mean() == pytest.approx(price(plain))


def test_halves_are_split_at_the_token_weighted_median() -> None:
    values = evaluate_heldout(priced, SLICE, PD, HeldoutSettings(), SINGLE).values
    rows, order = Slice().rows, np.argsort(PD)
    labels = (rows[order, 1:] != IGNORED).sum(axis=1)
    cut = int(np.argmin(np.abs(np.cumsum(labels) - labels.sum() / 2))) + 1
    assert values["val/low_pd/loss"] == pytest.approx(price(rows[order[:cut]]))
    assert values["val/high_pd/loss"] == pytest.approx(price(rows[order[cut:]]))


def test_equal_scores_still_give_two_halves() -> None:
    values = evaluate_heldout(priced, SLICE, np.zeros(13, dtype=np.float32), HeldoutSettings(), SINGLE).values
    assert {"val/low_pd/loss", "val/high_pd/loss"} <= set(values)


def test_max_samples_spreads_evenly_and_drops_absent_keys() -> None:
    values = evaluate_heldout(priced, SLICE, PD, HeldoutSettings(max_samples=3), SINGLE).values
    rows = Slice().rows[[0, 4, 8]]
    assert values["val/loss"] == pytest.approx(price(rows))
    assert "val/source/c/loss" not in values
    everything = evaluate_heldout(priced, SLICE, PD, HeldoutSettings(max_samples=99), SINGLE).values
    assert everything == evaluate_heldout(priced, SLICE, PD, HeldoutSettings(), SINGLE).values


def test_answers_are_the_items_of_the_means() -> None:
    found = evaluate_heldout(priced, SLICE, PD, HeldoutSettings(max_samples=7), SINGLE)
    assert found.answers.keys() == found.values.keys()
    for key, items in found.answers.items():
        assert items.mean() == pytest.approx(found.values[key])
        assert (np.diff(items.ids) > 0).all()
    samples = [0, 1, 3, 5, 7, 9, 11]
    rows, documents = Slice().rows[samples, 1:], Slice().document[samples]
    items = found.answers["val/loss"]
    assert items.ids.tolist() == [0, 2, 3] == items.groups.tolist()
    for document, value, weight in zip(items.ids, items.values, items.weights, strict=True):
        labels = rows[(documents == document) & (rows != IGNORED)]
        assert (value, weight) == (pytest.approx(labels.mean()), len(labels))
    assert found.answers["val/source/b/loss"].ids.tolist() == [3]
    assert found.answers["val/source/b/loss"].weights.tolist() == [9]


def test_a_sample_of_several_documents_is_split_between_them() -> None:
    items = evaluate_heldout(priced, SLICE, None, HeldoutSettings(batch_size=2), SINGLE).answers["val/loss"]
    assert items.ids.tolist() == [0, 1, 2, 3, 4]
    assert items.weights.tolist() == [20, 2, 38, 25, 8]
    assert items.values[1] == pytest.approx(Slice().rows[2, 5:7].mean())
    assert items.values[0] == pytest.approx(np.concatenate([*Slice().rows[:2, 1:], Slice().rows[2, 1:5]]).mean())


def test_bits_per_byte_use_the_bytes_of_the_labels(tokens_folder: Path) -> None:
    """Count the bytes by decoding the labels; a uniform model has a loss of ln(vocabulary) for each label."""
    from tokenizers import Tokenizer

    tokens = Tokens.open(tokens_folder, "validation")
    tokenizer = Tokenizer.from_file(str(tokens.tokenizer_folder / "tokenizer.json"))

    def uniform(ids_BS: torch.Tensor) -> TokenLosses:
        losses = torch.where(ids_BS[:, 1:] == IGNORED, 0.0, np.log(300.0)).float()
        return TokenLosses(losses.sum(), losses)

    values = evaluate_heldout(uniform, tokens, None, HeldoutSettings(max_samples=40), SINGLE).values
    ids = np.arange(40) * len(tokens) // 40
    groups = {"val": ids} | {
        f"val/source/{name}": ids[tokens.source_of(ids) == index] for index, name in enumerate(tokens.sources)
    }
    for name, rows in groups.items():
        real = [[token for token in row[1:] if token != IGNORED] for row in tokens.sample(rows).tolist()]
        text = "".join(tokenizer.decode([token]) for row in real for token in row if token != tokens.end_of_text)
        bits = sum(map(len, real)) * np.log2(300)
        assert values[f"{name}/bits_per_byte"] == pytest.approx(bits / len(text.encode()), rel=1e-6)
        assert values[f"{name}/loss"] == pytest.approx(np.log(300.0))


def test_a_failing_model_fails_on_all_ranks() -> None:
    def broken(ids_BS: torch.Tensor) -> TokenLosses:
        raise IndexError("no such token")

    with pytest.raises(RankFailed, match="IndexError: no such token"):
        evaluate_heldout(broken, SLICE, None, HeldoutSettings(), SINGLE)


def test_the_model_is_left_in_training_mode_without_gradients() -> None:
    decoder = build(DecoderConfig(vocab_size=50, layers=1, width=8, heads=2, kv_heads=1, ffn=8, max_seq_len=8), seed=0)
    decoder.train()
    seen = []
    decoder.register_forward_pre_hook(lambda module, _: seen.append((module.training, torch.is_grad_enabled())))
    evaluate_heldout(decoder, SLICE, PD, HeldoutSettings(), SINGLE)
    assert seen == [(False, False)]
    assert decoder.training
    assert all(parameter.grad is None for parameter in decoder.parameters())


@pytest.mark.parametrize(
    ("pd", "message"),
    [
        (PD[:5], r"pd has shape \(5,\), but the validation slice has 13 samples: score this slice again"),
        (np.where(np.arange(13) == 4, np.nan, PD).astype(np.float32), "pd of sample 4 of the validation slice is nan"),
    ],
)
def test_mismatched_scores_are_rejected(pd: npt.NDArray[np.float32], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_heldout(priced, SLICE, pd, HeldoutSettings(), SINGLE)


def test_an_empty_slice_is_rejected() -> None:
    empty = type("Empty", (), {"folder": "tokens", "slice": "validation", "__len__": lambda self: 0})()
    with pytest.raises(ValueError, match="the validation slice is empty: run prepare with a share for it"):
        evaluate_heldout(priced, cast(Tokens, empty), None, HeldoutSettings(), SINGLE)


@pytest.mark.parametrize(("key", "value"), [("max_samples", 0), ("batch_size", 0)])
def test_settings_are_checked(key: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"heldout\.{key}=0 must be at least 1"):
        HeldoutSettings(**{key: value})


def evaluate_decoder(world: World) -> tuple[dict[str, float], int]:
    """Return the values of a small decoder, and the number of forward passes on this rank."""
    config = DecoderConfig(vocab_size=50, layers=1, width=16, heads=2, kv_heads=1, ffn=16, max_seq_len=8)
    decoder = build(config, seed=0)
    calls: list[int] = []
    decoder.register_forward_pre_hook(lambda *_: calls.append(1))
    return evaluate_heldout(decoder, SLICE, PD, HeldoutSettings(batch_size=3), world).values, len(calls)


def run_rank(folder: str) -> None:
    """Evaluate as one rank, and write the values to a file."""
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    values = evaluate_decoder(World(rank, size, rank, size, torch.device("cpu")))
    (Path(folder) / f"{rank}.json").write_text(json.dumps(values))
    dist.barrier()


def test_two_ranks_return_the_same_as_one(forks: Forks, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    expected, calls = evaluate_decoder(SINGLE)
    assert calls == 5
    ranks = forks.start(f"{__name__}:run_rank", {"folder": str(tmp_path)}, 2, tmp_path / "log")
    assert ranks.wait(60) == [0, 0], ranks.told()
    for rank in range(2):
        values, calls = json.loads((tmp_path / f"{rank}.json").read_text())
        assert values == expected  # bit for bit: the batches are the same
        assert calls == 3  # in lockstep, although rank 1 has only two batches
