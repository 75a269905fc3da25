"""The work of `pdpc score`: score chunks of samples under every reference model, then join them as SCORES."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from curriculum.artifact.create import create, reusable
from curriculum.scores.checks import findings_of
from curriculum.scores.findings import Findings, joined, of_scores
from curriculum.scores.scorer import ScoringOptions
from curriculum.scores.scores import KIND, Scores
from curriculum.scores.table import show
from curriculum.scores.writer import DocumentsWriter, SliceWriter
from curriculum.tokens.tokens import Tokens
from curriculum.work.chunks import Chunk, ChunkFolder, Columns, cut
from curriculum.work.console import PlainConsole
from curriculum.work.job import done_note
from curriculum.work.progress import Meter, ScoreProgress

log = logging.getLogger(__name__)

NOTES = "models"
"""Name of the note that workers store with the chunks: the models' descriptions and warnings."""


class ScoringJob:
    """One SCORES folder to write: its chunks, the missing ones, and the final artifact."""

    def __init__(
        self,
        folder: Path,
        tokens: Mapping[str, Tokens],
        identities: Mapping[str, str],
        options: ScoringOptions,
        *,
        chunk_tokens: int | None = None,
        mark: Callable[[str], None] = lambda point: None,
    ) -> None:
        self.folder, self.tokens, self.options = folder, tokens, options
        self.inputs = {f"tokens/{name}": part.fingerprint for name, part in tokens.items()}
        self.inputs |= {f"model/{name}": identity for name, identity in identities.items()}
        self.identities = dict(identities)
        self.models = list(identities)
        first = next(iter(tokens.values()))
        self.chunks = cut(
            {name: len(part) for name, part in tokens.items()}, first.seq_len, options.batch_size, chunk_tokens
        )
        made_with = {"batch_size": options.batch_size, "compile": options.compile, "threads": options.threads}
        ends = {name: len(part) for name, part in tokens.items()}
        plan = {
            "inputs": self.inputs,
            "config": options.config() | made_with,
            "chunk_samples": self.chunks[0].stop if self.chunks else 0,
            "samples": ends,
        }
        self._mark = mark
        self.store = ChunkFolder(folder.with_name(f"{folder.name}.chunks"), plan, mark)

    def reused(self) -> Scores | None:
        """Return the SCORES if they are complete and match the settings; ArtifactError if the folder differs."""
        if not reusable(self.folder, KIND, config=self.options.config(), inputs=self.inputs):
            return None
        log.info("scores %s are complete and match the settings: reused", self.folder)
        self.store.remove()
        scores = Scores.open(self.folder, next(iter(self.tokens)))
        warn(of_scores(scores.manifest.facts))
        return scores

    def begin(self) -> list[Chunk]:
        """Create or resume the folder of chunks; return the missing chunks."""
        self.store.begin()
        return self.store.missing(self.chunks)

    def on_worker_ready(self, introduction: Mapping[str, Any], meter: Meter | None) -> None:
        """Store a worker's notes on its models, and add its roof to the meter's."""
        self.store.note(NOTES, introduction["notes"])
        if isinstance(meter, ScoreProgress):
            meter.roof = (meter.roof or 0.0) + introduction["roof"]

    def meter(self, missing: Sequence[Chunk]) -> ScoreProgress:
        """Return a meter of samples and tokens."""
        if said := done_note(self.chunks, missing):
            log.info("%s", said)
        total = sum(chunk.stop - chunk.start for chunk in missing)
        return ScoreProgress(PlainConsole(stderr=True), f"score under {', '.join(self.models)}", total)

    def finish(self, *, quiet: bool = False) -> Scores:
        """Join the chunks, remove them, and (unless `quiet`) print a table of scores. All chunks must be done."""
        self._mark("chunk.before_join")
        notes = self.store.noted(NOTES)
        found = [Findings(others=tuple(notes["warnings"]))]
        with create(self.folder, KIND, config=self.options.config(), inputs=self.inputs) as draft:
            for name in self.tokens:
                mine = [chunk for chunk in self.chunks if chunk.slice == name]
                self._write_slice(draft.path, name, mine)
            draft.facts.update(models=notes["models"])
            for name, part in self.tokens.items():
                found.append(findings_of(draft.path / f"{name}.parquet", part, notes.get("training", {})))
            findings = joined(found)
            draft.facts.update(warnings=list(findings.all))
            if findings:
                draft.facts.update(unusable=list(findings.unusable))
        self._mark("chunk.after_join")
        self.store.remove()
        first = next(iter(self.tokens))
        scores = Scores.open(self.folder, first)
        if quiet:
            return scores
        warn(findings)
        show(scores, self.tokens[first], PlainConsole())
        return scores

    def _write_slice(self, folder: Path, name: str, chunks: Sequence[Chunk]) -> None:
        predicted = None
        if self.options.fraction is not None:
            from curriculum.scores.cheap.prediction import predicted_losses

            losses = {m: self._column(chunks, f"loss_{m}") for m in self.models}
            first = {m: self._column(chunks, f"first_{m}") for m in self.models if self.options.first_tokens}
            predicted = predicted_losses(self.tokens[name], losses, first, self.options.first_tokens)
        with SliceWriter(folder, name, self.models) as samples, DocumentsWriter(folder, name, self.models) as documents:
            for chunk in chunks:
                columns = self.store.read(chunk)
                if predicted is not None:
                    part = slice(chunk.start, chunk.stop)
                    columns = columns | {f"loss_{m}": loss_N[part] for m, loss_N in predicted.items()}
                samples.add(columns)
                if self.options.documents:
                    documents.add(columns, self.tokens[name])

    def _column(self, chunks: Sequence[Chunk], name: str) -> NDArray[np.float32]:
        return np.concatenate([self.store.read(chunk)[name] for chunk in chunks] or [np.zeros(0, np.float32)])


def warn(findings: Findings) -> None:
    """Log what was found about scores, and what follows if they are unusable."""
    for text in findings.all:
        log.warning("warning: %s", text)
    if findings.unusable:
        log.warning("warning: these scores are unusable for an order: pdpc train will ask for accept_scores=true")


class Scorer(Protocol):
    """Scores chunks with loaded models."""

    def notes(self) -> dict[str, Any]:
        """Return the models' descriptions and warnings."""

    def score(self, chunk: Chunk) -> Columns:
        """Return the columns of a chunk."""


class ScoringWorker:
    """Scores chunks of a job. `roof`: upper bound on this process's tokens/s from its matrix products, or 0."""

    def __init__(self, job: ScoringJob, scorer: Scorer, roof: float = 0.0) -> None:
        self._job, self._scorer, self._roof = job, scorer, roof

    def introduction(self) -> dict[str, Any]:
        """Return the notes on the models, and the roof."""
        return {"notes": self._scorer.notes(), "roof": self._roof}

    def do(self, chunk: Chunk) -> tuple[int, int]:
        """Score and write a chunk; return its samples and labels."""
        columns = self._scorer.score(chunk)
        self._job.tokens[chunk.slice].recheck()
        self._job.store.write(chunk, columns)
        labels = self._job.tokens[chunk.slice].real_tokens(np.arange(chunk.start, chunk.stop))
        return chunk.stop - chunk.start, int(labels.sum())
