"""`pdpc prepare`: text to TOKENS.

text -> hold out by document -> tokenizer (found or trained on the training slice) -> encode -> TOKENS
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from curriculum.artifact import Draft, create, open_manifest, reusable
from curriculum.progress import TextProgress
from curriculum.text import Text, TextSettings, open_text
from curriculum.token_writer import TokenWriter, dtype_for
from curriculum.tokenizer import TextPick, TextTokenizer, TokenizerSettings, load_tokenizer, train_tokenizer
from curriculum.tokenizing import TRAIN, Chunker, HeldOut, encode_chunks
from curriculum.tokens import KIND, SLICES

MEGABYTE = 10**6
SMALLEST_SEQ_LEN = 2


@dataclass(frozen=True)
class PrepareSettings:
    """Everything that `pdpc prepare` can be told."""

    input: TextSettings = field(default_factory=TextSettings)
    """The text."""
    tokenizer: TokenizerSettings = field(default_factory=TokenizerSettings)
    """What turns it into tokens."""
    seq_len: int = 1024
    """Labels of a sample; a sample is seq_len + 1 tokens of one source."""
    validation_fraction: float = 0.02
    """Share of the documents held out to measure losses on."""
    reference_fraction: float = 0.1
    """Share of the documents held out to train the reference models on, which must not have seen what they score."""
    seed: int = 0
    """Key of the hash that chooses the held-out documents."""
    workers: int | None = None
    """Processes that encode text; null: one a core. The artifact does not depend on it."""
    output: str = "artifacts/tokens"
    """Folder to write TOKENS to."""

    def __post_init__(self) -> None:
        if self.seq_len < SMALLEST_SEQ_LEN:
            raise ValueError(f"seq_len={self.seq_len} must be at least {SMALLEST_SEQ_LEN}")
        fractions = {"validation_fraction": self.validation_fraction, "reference_fraction": self.reference_fraction}
        for key, value in fractions.items():
            if not 0 <= value < 1:
                raise ValueError(f"{key}={value} must be in [0, 1)")
        if sum(fractions.values()) >= 1:
            held_out = sum(fractions.values())
            raise ValueError(
                f"validation_fraction + reference_fraction = {held_out} leave no text to train on: lower them"
            )
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed={self.seed} must be in [0, 2^64)")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers={self.workers} must be at least 1, or null for one a core")
        if not self.output:
            raise ValueError("output is empty: name the folder to write TOKENS to")


def run(settings: PrepareSettings, console: Console | None = None) -> Path:
    """Make TOKENS, or reuse them when they are whole and made of the same; return their folder.

    Prints a table of documents, tokens and samples by source and slice. Raises ValueError for what the input or
    the settings have wrong, ArtifactError when something else stands at `output`.
    """
    console = console or Console()
    folder = Path(settings.output).expanduser()
    text = open_text(settings.input)
    tokenizer = None if settings.tokenizer.trained_vocabulary() else load_tokenizer(settings.tokenizer)
    config = _made_from(settings)
    inputs = text.identity()
    if tokenizer is not None:
        inputs["tokenizer"] = tokenizer.fingerprint
    if reusable(folder, KIND, config=config, inputs=inputs):
        _print(console, f"TOKENS at {folder}: whole, reused")
    else:
        for note in text.notes:
            _print(console, f"note: {note}")
        text.check()
        with create(folder, KIND, config=config, inputs=inputs) as draft:
            _write(settings, text, tokenizer, draft, console)
            _check_unchanged(text, inputs)
        _print(console, f"TOKENS written to {folder}")
    show(folder, console)
    return folder


def show(folder: Path, console: Console) -> None:
    """Print what a TOKENS folder holds: a table by source and slice, then what was left out."""
    facts = open_manifest(folder, KIND).facts
    console.print(_table(facts))
    bits = f"{facts['vocab_size']:,} tokens, stored as {facts['dtype']}"
    _print(console, f"vocabulary: {bits}; end of text: {facts['end_of_text_token']!r}; seq_len: {facts['seq_len']:,}")
    for key, reason in (("blank_documents", "blank"), ("documents_without_tokens", "without a token")):
        if facts[key]:
            by_source = ", ".join(f"{name} {count:,}" for name, count in sorted(facts[key].items()))
            _print(console, f"documents left out, {reason}: {sum(facts[key].values()):,} ({by_source})")


def _made_from(settings: PrepareSettings) -> dict[str, Any]:
    """The settings that decide what the artifact holds."""
    config = asdict(settings)
    for irrelevant in ("workers", "output"):
        del config[irrelevant]
    return config


def _write(
    settings: PrepareSettings, text: Text, tokenizer: TextTokenizer | None, draft: Draft, console: Console
) -> None:
    held_out = HeldOut(settings.validation_fraction, settings.reference_fraction, settings.seed)
    tokenizer = tokenizer or _train(settings, text, held_out, console)
    tokenizer.save(draft.path / "tokenizer")
    dtype = dtype_for(tokenizer.vocab_size)
    writer = TokenWriter(draft.path, dtype, tokenizer.end_of_text, settings.seq_len)
    chunker = Chunker()
    without_tokens: dict[int, int] = {}
    workers = settings.workers or _cores()
    chunks = chunker.chunks(text.documents())
    label = f"tokens ({workers} {'process' if workers == 1 else 'processes'})"
    with (
        closing(encode_chunks(chunks, draft.path / "tokenizer", held_out, dtype, workers)) as results,
        TextProgress(console, label, lambda: text.fraction_read) as progress,
    ):
        for encoded in results:
            for group in encoded.groups:
                writer.append(group)
            for source in encoded.without_tokens:
                without_tokens[source] = without_tokens.get(source, 0) + 1
            progress.add(encoded.documents, encoded.text_bytes)
    names = list(chunker.sources)
    draft.facts.update(
        seq_len=settings.seq_len,
        vocab_size=tokenizer.vocab_size,
        dtype=dtype,
        end_of_text=tokenizer.end_of_text,
        end_of_text_token=tokenizer.end_of_text_token,
        tokenizer_fingerprint=tokenizer.fingerprint,
        documents_read=chunker.documents,
        blank_documents=chunker.blank,
        documents_without_tokens={names[source]: count for source, count in without_tokens.items()},
        slices=writer.finish(chunker.sources),
    )
    _check_slices(settings, draft.facts, console)


def _train(settings: PrepareSettings, text: Text, held_out: HeldOut, console: Console) -> TextTokenizer:
    """Train the tokenizer on documents of the training slice."""
    vocab_size = settings.tokenizer.trained_vocabulary()
    assert vocab_size is not None, "called for train:VOCAB alone"
    pick = TextPick(settings.tokenizer.train_megabytes * MEGABYTE)
    with TextProgress(console, "text for the tokenizer", lambda: text.fraction_read) as progress:
        for document in text.documents():
            raw = document.text.encode()
            slice_index, key = held_out.slice_of(raw)
            if slice_index == TRAIN and raw and not document.text.isspace():
                pick.add(key, raw)
            progress.add(1, len(raw))
    tokenizer = train_tokenizer(pick.texts(), vocab_size, settings.tokenizer.end_of_text)
    if tokenizer.vocab_size < vocab_size:
        _print(
            console,
            f"note: the training slice yields {tokenizer.vocab_size:,} different tokens, not {vocab_size:,}: "
            "the text is small",
        )
    return tokenizer


def _check_slices(settings: PrepareSettings, facts: Mapping[str, Any], console: Console) -> None:
    """Raise ValueError when there is nothing to train on; say which held-out slice came out empty."""
    train, *others = (facts["slices"][name] for name in SLICES)
    read = facts["documents_read"]
    blank = sum(facts["blank_documents"].values()) + sum(facts["documents_without_tokens"].values())
    if train["documents"] == 0:
        kept = sum(part["documents"] for part in others)
        raise ValueError(
            f"the training slice is empty: of {read} documents {blank} are blank and {kept} were held out: "
            "add text, or lower validation_fraction and reference_fraction"
        )
    longest = max(row["tokens"] for row in train["sources"])
    if longest < settings.seq_len + 1:
        raise ValueError(
            f"seq_len={settings.seq_len}: no source of the training slice fills one sample (the largest has {longest} "
            f"tokens, a sample has {settings.seq_len + 1}): lower seq_len or add text"
        )
    fractions = {"validation": settings.validation_fraction, "reference": settings.reference_fraction}
    for name, fraction in fractions.items():
        if fraction and not facts["slices"][name]["documents"]:
            _print(
                console,
                f"warning: the {name} slice is empty: none of {read:,} documents fell into its {fraction:.1%}; "
                f"raise {name}_fraction, change seed or add text",
            )


def _check_unchanged(text: Text, inputs: Mapping[str, str]) -> None:
    for key, value in text.identity().items():
        if inputs.get(key) != value:
            raise ValueError(
                f"{key} changed while it was being read (was {inputs.get(key)}, is {value}): run again when it is whole"
            )


def _table(facts: Mapping[str, Any]) -> Table:
    table = Table()
    for name in ("source", "slice"):
        table.add_column(name)
    for name in ("documents", "tokens", "samples"):
        table.add_column(name, justify="right")
    slices = facts["slices"]
    keys = ("documents", "tokens", "samples")
    for index, source in enumerate(row["name"] for row in slices[SLICES[0]]["sources"]):
        for slice_name in SLICES:
            row = slices[slice_name]["sources"][index]
            label = source if slice_name == SLICES[0] else ""
            table.add_row(label, slice_name, *(f"{row[key]:,}" for key in keys), end_section=slice_name == SLICES[-1])
    for slice_name in SLICES:
        label = "all" if slice_name == SLICES[0] else ""
        table.add_row(label, slice_name, *(f"{slices[slice_name][key]:,}" for key in keys))
    return table


def _print(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
