"""The work of `pdpc prepare`: ranges of the text's places, each tokenised into a separate chunk, then joined.

The text determines which documents a chunk contains, and encoding depends only on the document: TOKENS are bitwise
identical whichever worker processes which chunk, and when.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from curriculum.artifact.blocks import add_blocks
from curriculum.artifact.create import create, reusable
from curriculum.artifact.drafts import draft_of
from curriculum.artifact.files import sync
from curriculum.text.text import open_text
from curriculum.tokens.encode import TRAIN, Blocks, Encoder, HeldOut, check_sources, one_thread
from curriculum.tokens.encoded import block_of, check_span, groups_of, metadata_of, summary_of
from curriculum.tokens.settings import PrepareSettings
from curriculum.tokens.table import SKIPPED, check_lost, show, template_note
from curriculum.tokens.tokenizer import TextPick, TextTokenizer, load_tokenizer, train_tokenizer
from curriculum.tokens.tokens import KIND, SLICES
from curriculum.tokens.writer import SkippedRecords, TokenWriter, dtype_for
from curriculum.work.chunks import Chunk, ChunkFolder, Columns, cut_text
from curriculum.work.console import PlainConsole, say
from curriculum.work.job import done_note, work_here
from curriculum.work.progress import ChunkProgress, Meter, TextProgress

MEGABYTE = 10**6
TOKENIZER = "tokenizer"
SHOWN = 5
"""Sources named in a warning."""
CHUNK_FORMAT = 2
"""Raised when chunks of an earlier version lack something that is now counted."""


def run(settings: PrepareSettings, console: Console | None = None) -> Path:
    """Write TOKENS in this process, or reuse them if they are complete and match the settings; return their folder.

    `pdpc prepare` (launch/prepare.py) does the same with several processes or machines. Prints a table of documents,
    tokens and samples by source and slice. Raises ValueError for errors in the input or the settings, ArtifactError if
    `output` contains something else.
    """
    job = TextJob(settings, console)
    if (folder := job.reused()) is not None:
        return folder
    with one_thread():
        work_here(job, lambda: TextWorker(job))
    return job.finish()


def _check_outside(output: Path, paths: Sequence[str]) -> None:
    """Raise ValueError if TOKENS would be written into a folder of the input, which another start would read whole."""
    for entry in paths:
        folder = Path(os.path.expanduser(entry))
        if entry and folder.is_dir() and output.resolve().is_relative_to(folder.resolve()):
            raise ValueError(
                f"output={output} is in {entry}, which input.paths reads whole, so the same command could not be run "
                f"again to resume: choose an output elsewhere, or name the files by a glob, such as {entry}/*.jsonl"
            )


class TextJob:
    """One TOKENS folder to write: its chunks, the missing ones, and the final artifact.

    `tokenizer` is the fingerprint of an existing tokenizer, if known; otherwise the tokenizer is loaded. `mark` is
    called at named points, where tests stop the job. Raises ValueError if the text or the tokenizer does not exist.
    """

    def __init__(
        self,
        settings: PrepareSettings,
        console: Console | None = None,
        *,
        tokenizer: str | None = None,
        mark: Callable[[str], None] = lambda point: None,
    ) -> None:
        self.settings, self.console = settings, console or PlainConsole()
        self.folder = Path(os.path.expanduser(settings.output))
        _check_outside(self.folder, settings.input.paths)
        self.text = open_text(settings.input, skip_bad=settings.on_bad_record == "skip")
        self._loaded: TextTokenizer | None = None
        self._given_template: tuple[list[str], list[str]] = [], []
        if tokenizer is None and settings.tokenizer.trained_vocabulary() is None:
            given = load_tokenizer(settings.tokenizer)
            self._loaded = given.following(settings.tokenizer.bos)
            self._given_template = given.template
            tokenizer = given.fingerprint
        self.tokenizer = tokenizer
        """Fingerprint of an existing tokenizer as it was given; None: one is trained on the text."""
        self.config = settings.content()
        self.inputs = self.text.identity() | ({} if tokenizer is None else {"tokenizer": tokenizer})
        self.chunks = cut_text(self.text.places, self.text.place_bytes, settings.chunk_bytes)
        self.held_out = HeldOut(
            *(settings.validation_fraction, settings.reference_fraction, settings.seed),
            *(settings.targets, settings.validation_by_source),
        )
        plan = {
            "inputs": self.inputs,
            "config": {key: value for key, value in self.config.items() if key != "seq_len"},
            "chunk_format": CHUNK_FORMAT,
            "chunk_places": self.chunks[0].stop if self.chunks else 0,
            "places": self.text.places,
        }
        self._mark = mark
        self.store = ChunkFolder(self.folder.with_name(f"{self.folder.name}.chunks"), plan, mark)

    def reused(self) -> Path | None:
        """Return the folder if it is complete and matches the settings; ArtifactError if it holds something else."""
        if not reusable(self.folder, KIND, config=self.config, inputs=self.inputs):
            return None
        self.store.remove()
        say(self.console, f"TOKENS at {self.folder}: complete, reused")
        show(self.folder, self.console)
        return self.folder

    def begin(self) -> list[Chunk]:
        """Check the text, load or train the tokenizer, and create or resume the folder of chunks."""
        found = list(self.text.notes)
        for note in found:
            say(self.console, note)
        if left_out := template_note(self._given_template, self._loaded):
            say(self.console, f"note: {left_out}")
        self.text.check()
        for note in self.text.notes[len(found) :]:
            say(self.console, note)
        self.store.begin()
        if not (self.store.folder / TOKENIZER).is_dir():
            self._keep(self._loaded or self._train())
        self.open_tokenizer()
        return self.store.missing(self.chunks)

    def open_tokenizer(self) -> TextTokenizer:
        """Return the tokenizer stored with the chunks; from then on its fingerprint is part of theirs."""
        if self._loaded is None:
            self._loaded = TextTokenizer.open(self.store.folder / TOKENIZER)
        self.store.add_dependency(self._loaded.fingerprint)
        return self._loaded

    def on_worker_ready(self, introduction: Mapping[str, Any], meter: Meter | None) -> None:
        """Do nothing: these workers report nothing about themselves."""

    def meter(self, missing: Sequence[Chunk]) -> ChunkProgress:
        """Return a meter of documents, text and places."""
        if said := done_note(self.chunks, missing):
            say(self.console, said)
        return ChunkProgress(self.console, "tokens", sum(chunk.stop - chunk.start for chunk in missing))

    def finish(self) -> Path:
        """Join the chunks, remove them, and print a table. Raises ValueError if there is nothing to train on."""
        self._mark("chunk.before_join")
        with create(self.folder, KIND, config=self.config, inputs=self.inputs) as draft:
            self.open_tokenizer().save(draft.path / TOKENIZER)
            draft.facts.update(self._join(draft.path))
            add_blocks(draft)
            check_lost(draft.facts, self.settings.tokenizer.max_lost)  # the chunks stay: a higher limit takes them
            try:
                _check_slices(self.settings, draft.facts, self.console)
            except ValueError:  # the fix changes the chunks
                self.store.remove()
                raise
            self._check_unchanged()
        self._mark("chunk.after_join")
        self.store.remove()
        say(self.console, f"TOKENS written to {self.folder}")
        show(self.folder, self.console)
        return self.folder

    def _keep(self, tokenizer: TextTokenizer) -> None:
        """Store a tokenizer with the chunks, atomically."""
        self._loaded = tokenizer
        temporary = draft_of(self.store.folder / TOKENIZER)
        tokenizer.save(temporary)
        for path in temporary.iterdir():
            sync(path)
        temporary.rename(self.store.folder / TOKENIZER)
        sync(self.store.folder)

    def _train(self) -> TextTokenizer:
        """Train a tokenizer on documents of the training slice."""
        wanted = self.settings.tokenizer
        vocab_size = wanted.trained_vocabulary()
        assert vocab_size is not None, "called only for train:VOCAB"
        pick = TextPick(wanted.train_megabytes * MEGABYTE)
        with TextProgress(self.console, "text for the tokenizer", lambda: self.text.fraction_read) as progress:
            for document in self.text.documents():
                raw = document.text.encode()
                slice_index, key = self.held_out.slice_of(raw, document.source)
                if slice_index == TRAIN and raw and not document.text.isspace():
                    pick.add(key, raw)
                progress.add(1, len(raw))
        tokenizer = train_tokenizer(pick.texts(), vocab_size, wanted.end_of_text).following(wanted.bos)
        if tokenizer.vocab_size < vocab_size:
            say(
                self.console,
                f"note: the trained tokenizer has {tokenizer.vocab_size:,} tokens, not {vocab_size:,}: "
                "the training slice is too small",
            )
        return tokenizer

    def _join(self, folder: Path) -> dict[str, Any]:
        """Write the slices' files from the chunks in order, block by block; return the artifact's facts."""
        tokenizer = self.open_tokenizer()
        dtype = dtype_for(tokenizer.vocab_size)
        writer = TokenWriter(folder, dtype, tokenizer.end_of_text, self.settings.seq_len)
        sources: dict[str, int] = {}
        ends: dict[str, int] = {}
        blank, without_tokens = Counter[str](), Counter[str]()
        kept: dict[str, Counter[str]] = {}
        read = 0
        skipped = SkippedRecords(folder / SKIPPED if self.text.bad.skip else None)
        for chunk in self.chunks:
            metadata: dict[str, Any] = {}
            for columns in self.store.blocks(chunk):
                metadata = metadata_of(columns)
                for name in metadata["sources"]:
                    sources.setdefault(name, len(sources))
                for group in groups_of(columns, sources, read) if "groups" in columns else ():
                    writer.append(group)
            check_sources(sources)
            check_span(metadata["spans"], ends)
            skipped.add(metadata.get("skipped", []))
            blank.update(metadata["blank"])
            without_tokens.update(metadata["without_tokens"])
            for name, counts in metadata["kept"].items():
                kept.setdefault(name, Counter()).update(counts)
            read += metadata["documents"]
        special = {} if tokenizer.bos is None else {"bos": tokenizer.bos, "bos_token": tokenizer.bos_token}
        special |= {} if tokenizer.bos in (None, tokenizer.end_of_text) else {"input_only": tokenizer.bos}
        lost = {name: dict(counts) for name, counts in sorted(kept.items()) if counts["lost"] or counts["changed"]}
        return {
            **special,
            **({"lost": lost} if lost else {}),
            "seq_len": self.settings.seq_len,
            "vocab_size": tokenizer.vocab_size,
            "dtype": dtype,
            "end_of_text": tokenizer.end_of_text,
            "end_of_text_token": tokenizer.end_of_text_token,
            "tokenizer_fingerprint": tokenizer.fingerprint,
            "documents_read": read,
            "blank_documents": dict(blank),
            "documents_without_tokens": dict(without_tokens),
            "slices": writer.finish(sources),
            **({"skipped_records": skipped.finish()} if self.text.bad.skip else {}),
        }

    def _check_unchanged(self) -> None:
        for key, value in self.text.identity().items():
            if (was := self.inputs.get(key)) != value:
                raise ValueError(
                    f"{key} changed while it was being read (was {was}, is {value}): run again when it is complete"
                )


class TextWorker:
    """Tokenises chunks of a job that has begun. Raises ArtifactError if this process sees a different input."""

    def __init__(self, job: TextJob) -> None:
        job.store.check()
        tokenizer = job.open_tokenizer()
        self._job = job
        self._encoder = Encoder(tokenizer, job.held_out, dtype_for(tokenizer.vocab_size))

    def introduction(self) -> dict[str, Any]:
        """Return an empty dict: there is nothing to report."""
        return {}

    def do(self, chunk: Chunk) -> tuple[int, int, int]:
        """Tokenise and write a chunk, block by block; return its documents, their bytes, and its places."""
        documents = text_bytes = 0

        def encoded() -> Iterator[Columns]:
            nonlocal documents, text_bytes
            text, blocks = self._job.text, Blocks()
            without_tokens = Counter[int]()
            kept: dict[int, Counter[str]] = {}
            for block in map(self._encoder.encode, blocks.cut(text.documents(chunk.start, chunk.stop))):
                documents += block.documents
                text_bytes += block.text_bytes
                without_tokens.update(block.without_tokens)
                for source, count in block.kept.items():
                    kept.setdefault(source, Counter()).update(asdict(count))
                yield block_of(block, list(blocks.sources))
            sources = list(blocks.sources)
            yield summary_of(
                {
                    "sources": sources,
                    "documents": blocks.documents,
                    "blank": blocks.blank,
                    "without_tokens": {sources[source]: count for source, count in without_tokens.items()},
                    "kept": {sources[source]: dict(counts) for source, counts in kept.items()},
                    "spans": text.spans,
                    **({"skipped": text.bad.skipped} if text.bad.skip else {}),
                }
            )

        self._job.store.write_blocks(chunk, encoded())
        return documents, text_bytes, chunk.stop - chunk.start


def _check_slices(settings: PrepareSettings, facts: Mapping[str, Any], console: Console) -> None:
    """Raise ValueError if there is nothing to train on; warn about empty held-out slices."""
    train, *others = (facts["slices"][name] for name in SLICES)
    read = facts["documents_read"]
    _check_named(settings, facts, console)
    blank = sum(facts["blank_documents"].values()) + sum(facts["documents_without_tokens"].values())
    if train["documents"] == 0:
        kept = sum(part["documents"] for part in others)
        raise ValueError(
            f"the training slice is empty: of {read} documents, {blank} are blank and {kept} were held out: "
            "add text, lower validation_fraction and reference_fraction, or name fewer targets"
        )
    longest = max(row["tokens"] for row in train["sources"])
    if longest < settings.seq_len + 1:
        raise ValueError(
            f"seq_len={settings.seq_len}: no source of the training slice fills a sample (the largest has {longest} "
            f"tokens, a sample has {settings.seq_len + 1}): lower seq_len or add text"
        )
    fractions = {"validation": settings.validation_fraction, "reference": settings.reference_fraction}
    for name, fraction in fractions.items():
        if fraction and not facts["slices"][name]["documents"]:
            say(
                console,
                f"warning: the {name} slice is empty: none of {read:,} documents fell within its {fraction:.1%}; "
                f"raise {name}_fraction, change seed or add text",
            )
    empty = [row["name"] for row in others[0]["sources"] if not row["samples"]]
    if settings.validation_fraction and 0 < len(empty) < len(others[0]["sources"]):
        more = f" and {len(empty) - SHOWN} more" if len(empty) > SHOWN else ""
        say(
            console,
            f"warning: the validation slice has no sample of {', '.join(empty[:SHOWN])}{more}, so there will be no "
            "held-out loss for them: raise validation_fraction, or set validation_by_source",
        )


def _check_named(settings: PrepareSettings, facts: Mapping[str, Any], console: Console) -> None:
    """Raise ValueError for a source that settings name and the text lacks; warn about a target's empty slice."""
    rows = {name: {row["name"]: row for row in facts["slices"][name]["sources"]} for name in SLICES}
    for key in ("targets", "validation_by_source"):
        unknown = sorted(set(getattr(settings, key)) - set(rows[SLICES[TRAIN]]))
        if unknown:
            raise ValueError(
                f"{key} names {', '.join(unknown)}, but the sources are {', '.join(rows[SLICES[TRAIN]])}: name one of "
                "those"
            )
    for source in settings.targets:
        for name in SLICES[TRAIN + 1 :]:
            if not rows[name][source]["samples"]:
                say(
                    console,
                    f"warning: the target {source} has no sample in the {name} slice "
                    f"({rows[name][source]['documents']:,} documents): change targets.{source} or add text",
                )
