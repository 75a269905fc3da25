"""Held-out loss: the model's loss on text that it never trains on, by source and by preference difference.

Every rank scores its share of one fixed list of batches; sums over each document's stretch of a sample are combined in
float64, so the results do not depend on the number of ranks. Bits per byte compare models across tokenizers:
nats / ln 2 / the bytes of text that the labels represent, according to tokenizer.json; without that file in TOKENS they
are left out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from curriculum.tokens.bytes import byte_lengths, bytes_of
from models.setting import BINDS, FREE
from train.evaluation.answers import Evaluated, Items
from train.faults import fault

if TYPE_CHECKING:
    import torch

    from curriculum.tokens.tokens import Tokens
    from models.losses.cross_entropy import TokenLosses
    from train.distributed.world import World

log = logging.getLogger(__name__)

AT_ONCE = 1024
"""Samples whose BOS are counted at a time."""


@dataclass(frozen=True)
class HeldoutSettings:
    """How much of the validation slice is evaluated at the end of a stage."""

    max_samples: int | None = field(default=None, metadata=BINDS)
    """Samples to evaluate, evenly spaced over the slice and always the same ones. null: all of them."""
    batch_size: int = field(default=16, metadata=FREE)
    """Samples per forward pass and rank."""

    def __post_init__(self) -> None:
        if self.max_samples is not None and self.max_samples < 1:
            raise ValueError(f"heldout.max_samples={self.max_samples} must be at least 1, or null for all samples")
        if self.batch_size < 1:
            raise ValueError(f"heldout.batch_size={self.batch_size} must be at least 1")


def evaluate_heldout(
    model: Callable[[torch.Tensor], TokenLosses],
    tokens: Tokens,
    pd: npt.NDArray[np.float32] | None,
    settings: HeldoutSettings,
    world: World,
) -> Evaluated:
    """Return held-out losses in nats per token, averaged over all real labels, and bits per byte.

    Keys: `val/loss`, `val/source/<name>/loss`, and with `pd` (float32 [len(tokens)], preference difference of the
    slice's samples) `val/low_pd/loss` and `val/high_pd/loss`: the halves of the slice below and above its median PD,
    weighted by tokens. A source or half without any of the `max_samples` has no key. Each has answers by document: the
    windows of one document are not independent of each other.
    `val/bits_per_byte` and `val/source/<name>/bits_per_byte`: see above. `model` is a Decoder or an engine around one:
    ids int64 [B, T + 1] to TokenLosses. Collective: every rank makes the same number of forward passes and returns the
    same values, at any number of ranks. Raises ValueError if the slice is empty or `pd` does not match it; an error on
    one rank during scoring is RankFailed on all.
    """
    if len(tokens) == 0:
        raise ValueError(f"{tokens.folder}: the {tokens.slice} slice is empty: run prepare with a share for it")
    high = None if pd is None else _high_half(pd, tokens)
    ids = spread(len(tokens), settings.max_samples)
    lengths = byte_lengths(tokens.tokenizer_folder)
    if lengths is None:
        log.info("no bits per byte: %s has no tokenizer.json with the bytes of each token", tokens.tokenizer_folder)
    spans = Spans(*tokens.document_spans(ids))
    labels_S = _labels(tokens, ids, spans)
    nats_S, bytes_ = _sums(model, tokens, ids, spans, lengths, settings.batch_size, world)
    sources = tokens.source_of(ids)

    groups: dict[str, npt.NDArray[np.bool_]] = {"val": np.ones(len(ids), dtype=bool)}
    for index, name in enumerate(tokens.sources):
        groups[f"val/source/{name}"] = sources == index
    if high is not None:
        groups |= {"val/low_pd": ~high[ids], "val/high_pd": high[ids]}
    found = Evaluated()
    for group, rows in groups.items():
        if not rows.any():
            continue
        inside = rows[spans.row_S]
        nats = nats_S[inside].sum()
        found.values[f"{group}/loss"] = float(nats / labels_S[inside].sum())
        found.answers[f"{group}/loss"] = _by_document(spans.document_S[inside], nats_S[inside], labels_S[inside])
        if not group.endswith("_pd") and bytes_[rows].sum() > 0:
            found.values[f"{group}/bits_per_byte"] = float(nats / np.log(2) / bytes_[rows].sum())
    return found


class Spans(NamedTuple):
    """The stretches of samples that belong to one document, by sample and position."""

    row_S: npt.NDArray[np.int64]
    """Place of the sample among those evaluated."""
    document_S: npt.NDArray[np.int64]
    length_S: npt.NDArray[np.int64]
    """Number of label positions, including BOS."""

    @property
    def start_S(self) -> npt.NDArray[np.int64]:
        """First label position of each stretch in its sample."""
        before_S = np.cumsum(self.length_S) - self.length_S
        return before_S - before_S[np.searchsorted(self.row_S, self.row_S, side="left")]


def _labels(tokens: Tokens, ids: npt.NDArray[np.int64], spans: Spans) -> npt.NDArray[np.int64]:
    """Return the labels of each stretch: its positions without BOS, which the text does not hold."""
    if tokens.input_only is None:
        return spans.length_S
    labels_S = spans.length_S.copy()
    for begin in range(0, len(ids), AT_ONCE):
        batch = tokens.sample(ids[begin : begin + AT_ONCE])[:, 1:]
        own = slice(*np.searchsorted(spans.row_S, [begin, begin + len(batch)]))
        edges = (spans.row_S[own] - begin) * batch.shape[1] + spans.start_S[own]
        labels_S[own] -= np.add.reduceat((batch == tokens.input_only).ravel(), edges, dtype=np.int64)
    return labels_S


def _by_document(
    document_S: npt.NDArray[np.int64], nats_S: npt.NDArray[np.float64], labels_S: npt.NDArray[np.int64]
) -> Items:
    counted = labels_S > 0
    document_S, nats_S, labels_S = document_S[counted], nats_S[counted], labels_S[counted]
    ids, place_S = np.unique(document_S, return_inverse=True)
    labels = np.bincount(place_S, weights=labels_S.astype(np.float64)).astype(np.float64)
    return Items(ids, np.bincount(place_S, weights=nats_S) / labels, labels, groups=ids)


def spread(samples: int, limit: int | None) -> npt.NDArray[np.int64]:
    """Return at most `limit` of the ids 0 .. samples - 1, evenly spaced; samples are numbered source by source."""
    if limit is None or limit >= samples:
        return np.arange(samples, dtype=np.int64)
    return np.arange(limit, dtype=np.int64) * samples // limit


def _high_half(pd: npt.NDArray[np.float32], tokens: Tokens) -> npt.NDArray[np.bool_]:
    """Return for every sample whether it is above the token-weighted median PD; ties are split by sample id."""
    if pd.shape != (len(tokens),):
        raise ValueError(
            f"pd has shape {pd.shape}, but the {tokens.slice} slice has {len(tokens)} samples: score this slice again"
        )
    if not np.isfinite(pd).all():
        bad = int(np.flatnonzero(~np.isfinite(pd))[0])
        raise ValueError(f"pd of sample {bad} of the {tokens.slice} slice is {pd[bad]}: score this slice again")
    order = np.argsort(pd, kind="stable")
    labels = tokens.real_tokens(np.arange(len(tokens)))[order]
    middle = np.cumsum(labels) - labels / 2
    high = np.empty(len(tokens), dtype=bool)
    high[order] = middle > labels.sum() / 2
    return high


def _sums(
    model: Callable[[torch.Tensor], TokenLosses],
    tokens: Tokens,
    ids: npt.NDArray[np.int64],
    spans: Spans,
    lengths: npt.NDArray[np.int64] | None,
    batch_size: int,
    world: World,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the loss in nats of each span, float64 [S], and the label bytes of each sample, float64 [n].

    The same on all ranks. `lengths`: bytes of every token; None: no bytes. Batches are formed before they are
    distributed over ranks, so a sample is in the same batch, with the same rounding, at any world size. A rank without
    a batch in the last round repeats its first one and drops the result: sharded weights need every rank in every
    forward pass.
    """
    import torch

    from train.distributed.collectives import Collectives
    from train.distributed.out_of_memory import needing

    batches = [ids[start : start + batch_size] for start in range(0, len(ids), batch_size)]
    nats_S, bytes_ = np.zeros(len(spans.row_S)), np.zeros(len(ids))
    start_S = spans.start_S

    def score() -> None:
        for first in range(0, len(batches), world.size):
            mine = first + world.rank
            batch = tokens.sample(batches[mine if mine < len(batches) else 0])
            with needing(f"a held-out batch: lower heldout.batch_size={batch_size}"):
                fault("heldout.batch")
                losses = model(torch.from_numpy(batch).to(world.device)).losses_BT
            if mine >= len(batches):
                continue
            begin, stop = mine * batch_size, mine * batch_size + len(batch)
            own = slice(*np.searchsorted(spans.row_S, [begin, stop]))
            edges = (spans.row_S[own] - begin) * losses.shape[1] + start_S[own]
            nats_S[own] = np.add.reduceat(losses.double().cpu().numpy().ravel(), edges)
            if lengths is not None:
                bytes_[begin:stop] = bytes_of(batch[:, 1:], lengths).sum(axis=1)
        tokens.recheck()

    with torch.no_grad(), evaluating(model):
        Collectives(world).run("held-out samples", score)
    sums = torch.from_numpy(np.concatenate([nats_S, bytes_])).to(world.device)
    both = world.all_sum(sums).cpu().numpy()  # an entry is zero on all ranks but one: the sum is exact
    return both[: len(nats_S)], both[len(nats_S) :]


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Put a module into evaluation mode and back; do nothing for a plain function."""
    from torch.nn import Module

    if not isinstance(model, Module) or not model.training:
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()
