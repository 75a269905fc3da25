"""Settings of `pdpc prepare`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from curriculum.text.document import LARGEST_DOCUMENT, ON_BAD_RECORD
from curriculum.text.text import TextSettings
from curriculum.tokens.tokenizer import TokenizerSettings

SMALLEST_SEQ_LEN = 2


@dataclass(frozen=True)
class PrepareSettings:
    """The input, contents and output folder of TOKENS."""

    input: TextSettings = field(default_factory=TextSettings)
    """The input text."""
    tokenizer: TokenizerSettings = field(default_factory=TokenizerSettings)
    """The tokenizer to load or train."""
    seq_len: int = 1024
    """Labels per sample; a sample is seq_len + 1 tokens of one source."""
    validation_fraction: float = 0.02
    """Share of the documents held out for measuring losses."""
    reference_fraction: float = 0.1
    """Share of the documents held out for training the reference models, which must not have seen what they score."""
    targets: dict[str, float] = field(default_factory=dict)
    """Sources that are held wholly out of training: targets.science=0.7 puts that share of its documents into the
    reference slice and the rest into the validation slice."""
    validation_by_source: dict[str, float] = field(default_factory=dict)
    """The validation_fraction of some sources: validation_by_source.math=0.1."""
    seed: int = 0
    """Seed of the hash that selects the held-out documents."""
    output: str = "artifacts/tokens"
    """Folder to write TOKENS to. Finished chunks are kept in the sibling folder OUTPUT.chunks until all are done."""
    on_bad_record: str = "fail"
    """What to do with a record that cannot be used (invalid JSON or UTF-8, a missing or wrong column): fail, or skip it
    and list it in TOKENS, in skipped.jsonl. A damaged file always fails."""
    chunk_bytes: int | None = None
    """Bytes of input per chunk (compressed, if the file is), the unit of resumable work; null: 1/1024 of the input,
    at least 2^18 and at most 2^25. The artifact does not depend on it."""

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
                f"validation_fraction + reference_fraction = {held_out} leaves no text to train on: lower them"
            )
        for source, share in self.targets.items():
            if not 0 <= share <= 1:
                raise ValueError(f"targets.{source}={share} must be in [0, 1], the share for the reference models")
            if source in self.validation_by_source:
                raise ValueError(
                    f"validation_by_source.{source} has no effect: targets.{source} puts 1 - {share} of that source "
                    "into the validation slice; remove one of them"
                )
        for source, fraction in self.validation_by_source.items():
            if not 0 <= fraction < 1 - self.reference_fraction:
                raise ValueError(
                    f"validation_by_source.{source}={fraction} must be in [0, 1 - reference_fraction = "
                    f"{1 - self.reference_fraction:g})"
                )
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed={self.seed} must be in [0, 2^64)")
        if self.chunk_bytes is not None and self.chunk_bytes < 1:
            raise ValueError(f"chunk_bytes={self.chunk_bytes} must be at least 1, or null")
        if self.on_bad_record not in ON_BAD_RECORD:
            raise ValueError(f"on_bad_record={self.on_bad_record!r} is unknown: use one of {', '.join(ON_BAD_RECORD)}")
        if not self.output:
            raise ValueError("output is empty: name the folder to write TOKENS to")
        if Path(self.output).name in ("", ".."):
            raise ValueError(f"output={self.output} has no name of its own: name a new folder to write TOKENS to")

    def content(self) -> dict[str, Any]:
        """Return the settings that determine the contents of TOKENS; those added later only if they are set."""
        names = ("input", "tokenizer", "seq_len", "validation_fraction", "reference_fraction", "seed")
        new = ("targets", "validation_by_source")
        content = {name: value for name, value in asdict(self).items() if name in names or (name in new and value)}
        del content["tokenizer"]["max_lost"]
        if not self.tokenizer.bos:  # as in TOKENS written before this setting existed
            del content["tokenizer"]["bos"]
        content["input"] = self.input.content()
        if self.on_bad_record == "fail":
            return content
        if self.input.max_document_bytes != LARGEST_DOCUMENT:  # it decides what is skipped
            content["input"]["max_document_bytes"] = self.input.max_document_bytes
        return content | {"on_bad_record": self.on_bad_record}
