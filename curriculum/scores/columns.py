"""Columns of every sample, in chunks, from TOKENS, SCORES and the user's own scores: length, source, losses, scores.

Shapes: N samples of a chunk, D documents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum.artifact.files import ArtifactError
from curriculum.scores.expression import Expression
from curriculum.scores.own import DOCUMENT, SOURCE, OwnScores
from curriculum.scores.scores import Scores
from curriculum.tokens.samples import Samples

LENGTH = "length"
"""Name of a sample's number of labels in a score expression."""
CHUNK_SAMPLES = 1 << 20
LONGEST = 1 << 31


@dataclass(frozen=True)
class Chunk:
    """Consecutive samples, starting at `first`."""

    first: int
    weight_N: NDArray[np.int64]
    """Labels per sample."""
    source_N: NDArray[np.uint16]
    """Index into the sources."""
    scores: dict[str, NDArray[np.float32]]
    """Value of every requested expression, by its text."""

    def __len__(self) -> int:
        return len(self.weight_N)


class SampleColumns:
    """The samples available to an order, and their columns. `tokens` or `own` must be given."""

    def __init__(self, tokens: Samples | None, scores: Scores | None, own: OwnScores | None) -> None:
        self.tokens, self.scores, self.own = tokens, scores, own
        if tokens is None and own is None:
            raise ValueError(
                "tokens=null and own_scores=null leave no samples: set tokens to TOKENS or own_scores to Parquet"
            )
        if own is not None and own.by == DOCUMENT and tokens is None:
            raise ValueError(f"own_scores={own.path} is by document: give tokens=FOLDER to map them to samples")
        self.samples = len(tokens) if tokens is not None else own.rows if own is not None else 0
        if tokens is not None and scores is not None:
            scores.check(tokens)
        if own is not None and own.by != DOCUMENT and own.rows != self.samples:
            assert tokens is not None
            raise ArtifactError(
                f"own_scores={own.path} has {own.rows} rows, but slice {tokens.slice!r} of {tokens.folder} has "
                f"{self.samples} samples: give scores of these tokens"
            )
        duplicates = sorted(set(scores.names if scores else []) & set(own.names if own else []))
        if duplicates:
            raise ValueError(f"own_scores has a column {duplicates[0]!r}, which the scores also have: rename it")

    @property
    def names(self) -> list[str]:
        """Names that an expression may use."""
        own = self.own.names if self.own else []
        return [*(self.scores.names if self.scores else []), *own, *([] if LENGTH in own else [LENGTH])]

    @property
    def place(self) -> str:
        """Where the scores are stored, for messages."""
        return " and ".join(
            str(place)
            for place in (self.scores.folder if self.scores else None, self.own.path if self.own else None)
            if place
        )

    @property
    def sources(self) -> list[str]:
        """Names of the sources; a single one with an empty name if they are unknown."""
        if self.tokens is not None:
            return self.tokens.sources
        return self.own.sources if self.own is not None and self.own.has_sources else [""]

    @property
    def inputs(self) -> dict[str, str]:
        """Fingerprints of the inputs that the columns are read from."""
        inputs: dict[str, str] = {}
        if self.tokens is not None:
            inputs |= {"tokens": self.tokens.fingerprint, "tokenizer": self.tokens.tokenizer_fingerprint}
        if self.scores is not None:
            inputs["scores"] = self.scores.fingerprint
        if self.own is not None:
            inputs["own_scores"] = self.own.fingerprint
        return inputs

    def check(self, expression: Expression) -> None:
        """Raise ValueError if an expression needs a column that does not exist."""
        for name in expression.names:
            if name not in self.names:
                where = "" if self.scores else "; set scores=FOLDER (output of pdpc score) for losses, ppl and pd"
                raise ValueError(f"score {expression.text!r} needs {name!r}, but columns are {self.names}{where}")

    def chunks(self, expressions: Sequence[Expression]) -> Iterator[Chunk]:
        """Yield all samples in order, CHUNK_SAMPLES at a time, with the value of each expression.

        Raises ArtifactError after the last one if the scores changed while they were being read.
        """
        names = sorted({name for expression in expressions for name in expression.names})
        stored = _in_chunks(self._scores(names), self.samples)
        own = _in_chunks(self._own(names), self.samples)
        for first in range(0, self.samples, CHUNK_SAMPLES):
            stop = min(first + CHUNK_SAMPLES, self.samples)
            columns = {**next(stored), **next(own)}
            weight_N = self._weights(first, stop, columns)
            columns.setdefault(LENGTH, weight_N.astype(np.float32) if LENGTH in names else weight_N)
            source_N = columns[SOURCE] if SOURCE in columns else self._source(first, stop)
            yield Chunk(first, weight_N, source_N, {item.text: item(columns) for item in expressions})
        self.recheck()

    def recheck(self) -> None:
        """Raise ArtifactError if the scores changed while they were being read."""
        if self.scores is not None:
            self.scores.recheck()
        if self.own is not None:
            self.own.recheck()

    def _scores(self, names: Sequence[str]) -> Iterator[dict[str, NDArray[Any]]]:
        mine = [name for name in names if self.scores is not None and name in self.scores.names]
        return self.scores.chunks(mine) if self.scores is not None and mine else iter(())

    def _own(self, names: Sequence[str]) -> Iterator[dict[str, NDArray[Any]]]:
        if self.own is None:
            return iter(())
        wanted = {*names, LENGTH} if self.tokens is None else set(names)
        mine = [name for name in self.own.names if name in wanted]
        with_source = self.tokens is None and self.own.has_sources
        if self.own.by == DOCUMENT:
            return self._by_document(mine) if mine else iter(())
        return self.own.chunks(mine, with_source) if mine or with_source else iter(())

    def _by_document(self, names: Sequence[str]) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield each sample's mean over its documents, weighted by their tokens in it."""
        assert self.own is not None
        assert self.tokens is not None
        ids_D, scores = self.own.documents(names)
        origins = self.tokens.origins
        row_D = np.minimum(np.searchsorted(ids_D, origins), len(ids_D) - 1)
        missing = np.flatnonzero(ids_D[row_D] != origins)
        if len(missing):
            raise ValueError(
                f"own_scores={self.own.path} has no row for document {origins[missing[0]]} ({len(missing)} of "
                f"{len(origins)} are missing): score every document of slice {self.tokens.slice!r}"
            )
        for first in range(0, self.samples, CHUNK_SAMPLES):
            ids = np.arange(first, min(first + CHUNK_SAMPLES, self.samples))
            yield {name: self.tokens.document_means(scores[name][row_D], ids) for name in names}

    def _weights(self, first: int, stop: int, columns: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        if self.tokens is None:
            if LENGTH not in columns:
                return _same(stop - first, 1, "int64")
            length_N = columns[LENGTH]
            bad = np.flatnonzero(~((length_N >= 1) & (length_N < LONGEST)))
            if len(bad):
                raise ValueError(
                    f"own_scores: the {LENGTH} of sample {first + bad[0]} is {length_N[bad[0]]}: give a number of at "
                    f"least 1 and below {LONGEST}"
                )
            return length_N.astype(np.int64)
        if self.tokens.input_only is not None:  # any sample may have fewer labels than tokens
            return self.tokens.real_tokens(np.arange(first, stop))
        weight_N = np.full(stop - first, self.tokens.seq_len, dtype=np.int64)
        short = self.tokens.maybe_short
        short = short[(short >= first) & (short < stop)]
        weight_N[short - first] = self.tokens.real_tokens(short)
        return weight_N

    def _source(self, first: int, stop: int) -> NDArray[np.uint16]:
        if self.tokens is None:
            return _same(stop - first, 0, "uint16")
        ranges = [self.tokens.samples_of(source) for source in range(len(self.tokens.sources))]
        lengths = [max(0, min(stop, part.stop) - max(first, part.start)) for part in ranges]
        return np.repeat(np.arange(len(ranges), dtype=np.uint16), lengths)


@lru_cache(maxsize=4)
def _same(length: int, value: int, dtype: str) -> NDArray[Any]:
    """Return a constant array that chunks share, for unknown weights and sources."""
    array = np.full(length, value, dtype=dtype)
    array.flags.writeable = False
    return array


def _in_chunks(pieces: Iterator[dict[str, NDArray[Any]]], samples: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Split and join pieces into chunks of CHUNK_SAMPLES rows; the last chunk has the rest."""
    held: list[dict[str, NDArray[Any]]] = []
    rows = 0
    for first in range(0, samples, CHUNK_SAMPLES):
        wanted = min(CHUNK_SAMPLES, samples - first)
        while rows < wanted:
            piece = next(pieces, None)
            if piece is None:
                if held:
                    raise ValueError(
                        f"the scores end at sample {first + rows} of {samples}: they are truncated; write them again"
                    )
                break
            held.append(piece)
            rows += len(next(iter(piece.values())))
        if not held:
            yield {}
            continue
        joined = {
            name: np.concatenate([piece[name] for piece in held]) if len(held) > 1 else held[0][name]
            for name in held[0]
        }
        yield {name: column[:wanted] for name, column in joined.items()}
        rows -= wanted
        held = [{name: column[wanted:] for name, column in joined.items()}] if rows else []
