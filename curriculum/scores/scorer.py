"""Scoring: the mean token loss of every sample of a chunk under each reference model.

A batch is read once and costs every model one forward pass. Batches depend only on the sample ids, so no loss depends
on the number of workers or on what was done before a restart.

Shapes: B samples per batch, T tokens (S = T + 1 with the last label), N samples.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from curriculum.tokens.bytes import byte_lengths, bytes_of
from curriculum.tokens.tokens import IGNORED, Tokens
from curriculum.work.chunks import Chunk, Columns

if TYPE_CHECKING:
    from torch import Tensor

    from curriculum.scores.text_scorer import TextScorer
    from models.losses.loss_model import LossModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reference:
    """A reference model and its provenance."""

    model: LossModel
    fingerprint: str
    tokenizer_fingerprint: str | None
    trained_on: str | None
    """Fingerprint of the slice it was trained on, if known."""
    way: str = "the decoder"
    """Description of the implementation that computes it."""
    text: TextScorer | None = None
    """Scores the text instead of the tokens, for a model with a different tokenizer."""
    overlaps: Mapping[str, float] | None = None
    """Share of each slice's documents that it was trained on, if known."""
    training: str | None = None
    """Steps and learning rate of its training, if known."""

    def sums(self, ids_BS: Tensor) -> Tensor:
        """Return the summed loss of each sample in nats, float64 [B], on the device where it was computed."""
        import torch

        if self.text is not None:
            return torch.from_numpy(self.text.sample_sums(ids_BS.numpy()))
        return self.model.losses(ids_BS).sum(dim=1, dtype=torch.float64)


@dataclass(frozen=True)
class ScoringOptions:
    """Options that determine the scores, besides tokens and models."""

    batch_size: int
    """Samples per forward pass."""
    precision: str
    documents: bool = False
    """Also keep losses by document."""
    first_tokens: int | None = None
    """Score only the first N labels of every sample; None: all."""
    fraction: float | None = None
    """Score a random share of the samples and predict the rest; None: score all."""
    compile: bool = False
    threads: int | None = None
    """CPU threads per process: they change the last bits of the results."""

    def config(self) -> dict[str, Any]:
        """Return the options stored in the artifact's config: those that change more than rounding."""
        return {
            "precision": self.precision,
            "documents": self.documents or None,
            "first_tokens": self.first_tokens,
            "fraction": self.fraction,
        }


class ChunkScorer:
    """Scores chunks with loaded models. Every process computes the same columns."""

    def __init__(
        self, tokens: Mapping[str, Tokens], references: Mapping[str, Reference], options: ScoringOptions
    ) -> None:
        self.tokens, self.references, self.options = tokens, references, options
        self.warnings = [warning for name, model in references.items() for warning in _check(name, model, tokens)]
        for name, model in references.items():
            log.info("model %r is scored by %s", name, model.way)

    def notes(self) -> dict[str, Any]:
        """Return the models' descriptions, warnings and what is known of their training, as JSON values."""
        described = {name: _describe(model) for name, model in self.references.items()}
        training = {name: model.training for name, model in self.references.items() if model.training}
        return {"models": described, "warnings": self.warnings, "training": training}

    def score(self, chunk: Chunk) -> Columns:
        """Return the columns of a chunk: tokens, bytes, one loss per model. ValueError for a non-finite loss."""
        part = self.tokens[chunk.slice]
        ids_N = np.arange(chunk.start, chunk.stop)
        chosen_N = ids_N
        if self.options.fraction is not None:
            from curriculum.scores.cheap.prediction import chosen

            chosen_N = ids_N[chosen(ids_N, self.options.fraction)]
        limit = self.options.first_tokens if self.options.fraction is None else None
        columns = self._counts(part, ids_N)
        for name, loss in self._losses(part, chosen_N, limit).items():
            whole = np.full(len(ids_N), np.nan, dtype=np.float32)
            whole[chosen_N - chunk.start] = loss
            columns[f"loss_{name}"] = whole
        if self.options.fraction is not None and self.options.first_tokens is not None:
            first = self._losses(part, ids_N, self.options.first_tokens)
            columns |= {f"first_{name}": loss for name, loss in first.items()}
        for name in self.references:
            _check_finite(name, chunk, columns[f"loss_{name}"], chosen_N)
        if self.options.documents:
            columns |= self._documents(part, ids_N)
        return columns

    def _counts(self, part: Tokens, ids_N: NDArray[np.int64]) -> Columns:
        lengths_V = byte_lengths(part.tokenizer_folder)
        bytes_N = np.zeros(len(ids_N), dtype=np.int64)
        if lengths_V is not None:
            for rows in self._batches(ids_N):
                bytes_N[rows] = bytes_of(part.sample(ids_N[rows])[:, 1:], lengths_V).sum(axis=1)
        return {"tokens": part.real_tokens(ids_N).astype(np.int32), "bytes": bytes_N.astype(np.int32)}

    def _losses(self, part: Tokens, ids_N: NDArray[np.int64], limit: int | None) -> dict[str, NDArray[np.float32]]:
        """Return the mean loss of samples by model, over their first `limit` labels; every batch is read once."""
        import torch

        found: dict[str, list[Tensor]] = {name: [] for name in self.references}
        for rows in self._batches(ids_N):
            ids_BS = torch.from_numpy(part.sample(ids_N[rows])[:, : None if limit is None else limit + 1])
            for name, reference in self.references.items():
                found[name].append(reference.sums(ids_BS))  # stays on the device: no sync per batch
        divisor_N = np.maximum(part.real_tokens(ids_N, limit), 1)
        empty = torch.zeros(0, dtype=torch.float64)
        return {
            name: (torch.cat([empty, *(part.cpu() for part in sums)]).numpy() / divisor_N).astype(np.float32)
            for name, sums in found.items()
        }

    def _documents(self, part: Tokens, ids_N: NDArray[np.int64]) -> Columns:
        """Return, for each document's part of each sample, its index, tokens, bytes, and nats by model."""
        import torch

        lengths_V = byte_lengths(part.tokenizer_folder)
        pieces: dict[str, list[NDArray[Any]]] = {}

        def keep(name: str, value: NDArray[Any]) -> None:
            pieces.setdefault(name, []).append(value)

        for rows in self._batches(ids_N):
            samples_BS = part.sample(ids_N[rows])
            found = [part.documents_in(int(sample)) for sample in ids_N[rows]]
            sizes = np.concatenate([pairs[:, 1] for pairs in found])
            starts = np.cumsum(sizes) - sizes
            real_BT = samples_BS[:, 1:] != IGNORED
            keep("document", np.concatenate([pairs[:, 0] for pairs in found]))
            labels = samples_BS[:, 1:][real_BT]
            counts = sizes if part.input_only is None else np.add.reduceat((labels != part.input_only) + 0, starts)
            keep("document_tokens", counts.astype(np.int32))
            counted = bytes_of(samples_BS[:, 1:], lengths_V)[real_BT] if lengths_V is not None else 0 * real_BT[real_BT]
            keep("document_bytes", np.add.reduceat(counted.astype(np.int64), starts))
            for name, reference in self.references.items():
                if reference.text is not None:
                    keep(f"nats_{name}", reference.text.piece_sums(samples_BS, [pairs[:, 1] for pairs in found]))
                    continue
                losses_BT = reference.model.losses(torch.from_numpy(samples_BS)).double().cpu().numpy()
                keep(f"nats_{name}", np.add.reduceat(losses_BT[real_BT], starts))
        return {name: np.concatenate(values) for name, values in pieces.items()}

    def _batches(self, ids_N: NDArray[np.int64]) -> Iterator[slice]:
        for start in range(0, len(ids_N), self.options.batch_size):
            yield slice(start, start + self.options.batch_size)


def _check_finite(name: str, chunk: Chunk, loss_N: NDArray[np.float32], scored: NDArray[np.int64]) -> None:
    bad = scored[~np.isfinite(loss_N[scored - chunk.start])]
    if len(bad):
        raise ValueError(
            f"model {name!r} gives sample {bad[0]} of slice {chunk.slice!r} a loss of {loss_N[bad[0] - chunk.start]} "
            f"({len(bad)} such samples in its chunk): its weights are corrupt or overflow in this precision; score in "
            "fp32, or choose another reference model"
        )


def _check(name: str, model: Reference, tokens: Mapping[str, Tokens]) -> list[str]:
    """Raise ValueError if a model cannot read the tokens; return warnings about its scores."""
    warnings = []
    for part in tokens.values():
        part.check_tokenizer()
    for part in tokens.values() if model.text is None else ():
        if model.tokenizer_fingerprint is not None and model.tokenizer_fingerprint != part.tokenizer_fingerprint:
            raise ValueError(
                f"model {name!r} was trained with another tokenizer ({model.tokenizer_fingerprint}) than that of "
                f"{part.folder} ({part.tokenizer_fingerprint}): prepare the text with the model's tokenizer, choose "
                "another model, or score the text with its export (pdpc export)"
            )
        if model.model.vocab_size < part.vocab_size:
            raise ValueError(
                f"model {name!r} has a vocabulary of {model.model.vocab_size} tokens, but {part.folder} uses "
                f"{part.vocab_size}: choose a model with the same tokenizer"
            )
    for slice, part in tokens.items():
        share = 1.0 if model.trained_on == part.fingerprint else (model.overlaps or {}).get(slice, 0.0)
        if share > 0:
            seen = "" if share == 1.0 else f"{share:.1%} of the documents of "
            warnings.append(
                f"model {name!r} was trained on {seen}slice {slice!r}, which it now scores: its losses measure memory "
                "as much as difficulty, and PD calls easy what it knows by heart; train it on the reference slice"
            )
    return warnings


def _describe(model: Reference) -> dict[str, object]:
    return {
        "fingerprint": model.fingerprint,
        "parameters": model.model.parameter_count(),
        "trained_on": model.trained_on,
        "scored_by": model.way,
    }


def mean_losses(model: LossModel, tokens: Tokens, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the mean loss in nats over the labels of each of the samples `ids`, float32 [n], in a single batch."""
    import torch

    losses_BT = model.losses(torch.from_numpy(tokens.sample(ids)))
    sums_B = losses_BT.sum(dim=1, dtype=torch.float64).cpu().numpy()
    result: NDArray[np.float32] = (sums_B / np.maximum(tokens.real_tokens(ids), 1)).astype(np.float32)
    return result
