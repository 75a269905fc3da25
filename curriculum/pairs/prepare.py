"""The work of `pdpc pairs prepare`: records of preference data to PAIRS, in one pass and bounded memory.

The held-out slice is decided by a hash of the prompt, so that no prompt is in both slices; PAIRS depend only on the
records, the tokenizer and the settings.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from curriculum.artifact.blocks import add_blocks
from curriculum.artifact.create import create, reusable
from curriculum.artifact.files import write_text
from curriculum.pairs.encode import ON_LONG, EncodingOptions, PairEncoder, chat_template_file
from curriculum.pairs.pairs import KIND, SLICES, Pairs
from curriculum.pairs.records import PairInput, record_of
from curriculum.pairs.writer import PairsWriter
from curriculum.text.document import LARGEST_DOCUMENT, ON_BAD_RECORD, BadRecordError
from curriculum.text.text import Text, open_input
from curriculum.tokens.encode import HeldOut, check_sources, one_thread
from curriculum.tokens.settings import SMALLEST_SEQ_LEN
from curriculum.tokens.table import SKIPPED
from curriculum.tokens.tokenizer import TRAIN_PREFIX, TextTokenizer, TokenizerSettings, load_tokenizer
from curriculum.tokens.writer import SkippedRecords, dtype_for
from curriculum.work.console import PlainConsole, cell, say
from curriculum.work.progress import TextProgress


@dataclass(frozen=True)
class PreparePairsSettings:
    """The input, contents and output folder of PAIRS."""

    tokenizer: str
    """Tokenizer of the model to train: a folder with a tokenizer.json (TOKENS/tokenizer, an export, a model), or the
    name of a Hugging Face tokenizer (downloaded if it is not in the cache)."""
    input: PairInput = field(default_factory=PairInput)
    """The records."""
    end_of_text: str | None = None
    """The tokenizer's end-of-text token. null: the tokenizer's default."""
    bos: bool = False
    """Start every prompt of text with the tokenizer's BOS token; a chat template starts prompts itself."""
    end_answers: bool = True
    """End every answer of text with end-of-text, so that the model learns to stop; a chat template ends answers
    itself."""
    seq_len: int = 1024
    """Labels of the longest sequence: prompt and answer have at most seq_len + 1 tokens."""
    on_long: str = "fail"
    """What to do with a longer pair: fail (a record that cannot be used), or truncate: cut its prompt on the left down
    to one token, then its answers on the right."""
    validation_fraction: float = 0.02
    """Share of the prompts held out for evaluation, with all of their pairs."""
    seed: int = 0
    """Seed of the hash that selects the held-out prompts."""
    output: str = "artifacts/pairs"
    """Folder to write PAIRS to."""
    on_bad_record: str = "fail"
    """What to do with a record that cannot be used (no answer, equal answers, a reward that is not finite, invalid
    JSON, ...): fail, or skip it and list it in PAIRS, in skipped.jsonl. A damaged file always fails."""

    def __post_init__(self) -> None:
        if not self.tokenizer or self.tokenizer.startswith(TRAIN_PREFIX):
            raise ValueError(
                f"tokenizer={self.tokenizer!r}: name the tokenizer of the model to train, a folder or a Hugging Face "
                "name; none is trained on pairs"
            )
        if self.seq_len < SMALLEST_SEQ_LEN:
            raise ValueError(f"seq_len={self.seq_len} must be at least {SMALLEST_SEQ_LEN}")
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"validation_fraction={self.validation_fraction} must be in [0, 1)")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed={self.seed} must be in [0, 2^64)")
        for key, choices in (("on_long", ON_LONG), ("on_bad_record", ON_BAD_RECORD)):
            if getattr(self, key) not in choices:
                raise ValueError(f"{key}={getattr(self, key)!r} is unknown: use one of {', '.join(choices)}")
        if Path(self.output).name in ("", ".."):
            raise ValueError(f"output={self.output} has no name of its own: name a new folder to write PAIRS to")

    def content(self) -> dict[str, Any]:
        """Return the settings that determine the contents of PAIRS."""
        content = {name: value for name, value in asdict(self).items() if name not in ("output", "tokenizer")}
        content["input"] = self.input.content()
        if self.on_bad_record == "skip" and self.input.max_document_bytes != LARGEST_DOCUMENT:
            content["input"]["max_document_bytes"] = self.input.max_document_bytes
        return content


def run(settings: PreparePairsSettings, console: Console | None = None) -> Pairs:
    """Write PAIRS, or reuse them if they are complete and match the settings; return the training slice.

    Prints a table of pairs, answers and tokens by source and slice, and what was cut or skipped. Raises ValueError with
    file and line for a record that cannot be used, ArtifactError if `output` contains something else.
    """
    console = console or PlainConsole()
    folder = Path(os.path.expanduser(settings.output))
    text = open_input(settings.input, settings.input.columns, skip_bad=settings.on_bad_record == "skip")
    name = settings.tokenizer
    given = load_tokenizer(TokenizerSettings(name=name, end_of_text=settings.end_of_text, bos=settings.bos))
    inputs = text.identity() | {"tokenizer": given.fingerprint}
    if reusable(folder, KIND, config=settings.content(), inputs=inputs):
        say(console, f"PAIRS at {folder}: complete, reused")
    else:
        tokenizer = given.following(settings.bos)
        for note in text.notes:
            say(console, note)
        with one_thread(), create(folder, KIND, config=settings.content(), inputs=inputs) as draft:
            draft.facts.update(_write(settings, text, tokenizer, draft.path, console))
            add_blocks(draft)
            for key, value in text.identity().items():
                if inputs.get(key) != value:
                    raise ValueError(f"{key} changed while it was being read: run again when it is complete")
        say(console, f"PAIRS written to {folder}")
    pairs = Pairs.open(folder)
    show(pairs, console)
    return pairs


def _write(
    settings: PreparePairsSettings, text: Text, tokenizer: TextTokenizer, folder: Path, console: Console
) -> dict[str, Any]:
    """Encode the records and write the slices' files; return the artifact's facts."""
    options = EncodingOptions(
        settings.seq_len, settings.bos, settings.end_answers, truncate=settings.on_long == "truncate"
    )
    encoder = PairEncoder(tokenizer, options, settings.tokenizer)
    held_out = HeldOut(settings.validation_fraction, 0.0, settings.seed)
    dtype = dtype_for(tokenizer.vocab_size)
    writer = PairsWriter(folder, dtype, settings.seq_len, rewards=settings.input.has_rewards)
    skipped = SkippedRecords(folder / SKIPPED if text.bad.skip else None)
    sources: dict[str, int] = {}
    read = 0
    with TextProgress(console, "pairs", lambda: text.fraction_read) as progress:
        for document in text.documents():
            record = record_of(document)
            source = sources.setdefault(document.source, len(sources))
            check_sources(sources)
            try:
                pair = encoder.encode(record, read)
            except BadRecordError as error:
                text.bad.add(error)
            else:
                writer.append(held_out.slice_of(record.identity, document.source)[0], source, pair)
            read += 1
            progress.add(1, len(document.text))
    skipped.add(text.bad.skipped)
    tokenizer.save(folder / "tokenizer")
    if encoder.template is not None:
        write_text(chat_template_file(folder / "tokenizer"), encoder.template.source)
    facts = writer.finish(sources)
    special = {} if tokenizer.bos is None else {"bos": tokenizer.bos, "bos_token": tokenizer.bos_token}
    special |= {} if tokenizer.bos in (None, tokenizer.end_of_text) else {"input_only": tokenizer.bos}
    _check_slices(settings, facts, text, console)
    return {
        **special,
        **facts,
        "seq_len": settings.seq_len,
        "vocab_size": tokenizer.vocab_size,
        "dtype": dtype,
        "end_of_text": tokenizer.end_of_text,
        "end_of_text_token": tokenizer.end_of_text_token,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "chat": bool(encoder.form),
        "records_read": read,
        "encoding": {key: encoder.counts[key] for key in ("prompts_cut", "answers_cut", "tokens_cut", "split")},
        **({"skipped_records": skipped.finish()} if text.bad.skip else {}),
    }


def _check_slices(settings: PreparePairsSettings, facts: Mapping[str, Any], text: Text, console: Console) -> None:
    """Raise ValueError if there is nothing to train on; warn about an empty held-out slice."""
    train, validation = (facts["slices"][name]["pairs"] for name in SLICES)
    if not train:
        first = f"; the first bad record is {': '.join(text.bad.skipped[0])}" if text.bad.skipped else ""
        raise ValueError(f"the input has no pairs to train on{first}: check the input, or lower validation_fraction")
    if not validation and settings.validation_fraction:
        say(console, "warning: the validation slice is empty: the prompts are too few for this validation_fraction")


def show(pairs: Pairs, console: Console) -> None:
    """Print pairs, answers and tokens by source and slice, and what was cut or skipped."""
    from curriculum.artifact.manifest import open_manifest

    facts = open_manifest(pairs.folder, KIND).facts
    table = Table(title=cell(f"PAIRS {pairs.folder}"), title_justify="left")
    for number, heading in enumerate(("source", "slice", "pairs", "answers", "tokens of answers", "stored tokens")):
        table.add_column(heading, justify="right" if number > 1 else "left", overflow="fold")
    keys = ("pairs", "answers", "labels", "tokens")
    slices = facts["slices"]
    for index, name in enumerate(pairs.sources):
        for slice_name in SLICES:
            row = slices[slice_name]["sources"][index]
            table.add_row(cell(name), slice_name, *(f"{row[key]:,}" for key in keys))
    if len(pairs.sources) > 1:
        for slice_name in SLICES:
            table.add_row("all", slice_name, *(f"{slices[slice_name][key]:,}" for key in keys))
    console.print(table)
    counts = facts.get("encoding", {})
    if counts.get("prompts_cut") or counts.get("answers_cut"):
        say(
            console,
            f"cut to {pairs.seq_len + 1} tokens: {counts['prompts_cut']:,} prompts, {counts['answers_cut']:,} answers, "
            f"{counts['tokens_cut']:,} tokens in all",
        )
    if counts.get("split"):
        say(console, f"pairs whose prompt and answers were encoded separately: {counts['split']:,}")
    if skipped := facts.get("skipped_records"):
        by_reason = "; ".join(f"{count:,}: {reason}" for reason, count in skipped["by_reason"].items())
        say(console, f"bad records skipped: {skipped['count']:,}{f' ({by_reason})' if by_reason else ''}")
    if pairs.has_rewards and len(pairs):
        rewards = pairs.rewards(np.arange(len(pairs)))
        say(console, f"rewards: mean {rewards.mean():.3f}, from {rewards.min():.3f} to {rewards.max():.3f}")
