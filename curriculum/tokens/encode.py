"""Encode documents as token ids in blocks of about a megabyte; a hash of the text selects the held-out ones."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import xxhash

from curriculum.text.document import Document
from curriculum.tokens.lost import LostBytes
from curriculum.tokens.tokenizer import TextTokenizer
from curriculum.tokens.tokens import SLICES

BLOCK_CHARACTERS = 1 << 20
BLOCK_DOCUMENTS = 4096
MOST_SOURCES = 10_000
HALF = 64
SHOWN_CHARACTERS = 60

TRAIN, VALIDATION, REFERENCE = range(len(SLICES))


@dataclass(frozen=True)
class HeldOut:
    """Which documents are held out, decided only by a seeded hash of the text and the shares of its source.

    Equal texts of one source, or of sources with equal shares, are in one slice, whatever the order of the files and
    the number of workers.
    """

    validation_fraction: float
    reference_fraction: float
    seed: int
    targets: Mapping[str, float] = field(default_factory=dict)
    """Share for the reference models of each source that is held out as a whole."""
    validation_by_source: Mapping[str, float] = field(default_factory=dict)
    """Validation fraction of sources that have one of their own."""

    def slice_of(self, text: bytes, source: str) -> tuple[int, int]:
        """Return (index into SLICES, a second, independent 64-bit hash) of a text in UTF-8."""
        digest = xxhash.xxh3_128_intdigest(text, seed=self.seed)
        place = (digest >> HALF) / 2**HALF
        validation = self.validation_by_source.get(source, self.validation_fraction)
        reference = self.reference_fraction
        if source in self.targets:
            reference = self.targets[source]
            validation = 1 - reference
        if place < validation:
            return VALIDATION, digest % 2**HALF
        if place < validation + reference or source in self.targets:
            return REFERENCE, digest % 2**HALF
        return TRAIN, digest % 2**HALF


@dataclass
class Block:
    """About a megabyte of documents: ordinals in the stream, sources by index and by name, and texts."""

    origins: list[int] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Group:
    """Encoded documents of one slice and one source, in order."""

    slice: int
    source: int
    ids: npt.NDArray[np.unsignedinteger]
    """Each document as [end_of_text] + its tokens; with `tokenizer.bos`, BOS is the first of them."""
    lengths: npt.NDArray[np.int64]
    """Tokens of each document, end-of-text included."""
    origins: npt.NDArray[np.int64]
    text_bytes: int
    """Bytes of text, without those that the tokenizer lost."""


@dataclass
class Kept:
    """What the tokenizer made of a source's text."""

    bytes: int = 0
    """Bytes read."""
    lost: int = 0
    """Those of them that the tokenizer dropped, changed or did not know."""
    changed: int = 0
    """Documents whose tokens decode to another text."""


@dataclass(frozen=True)
class EncodedBlock:
    """The result of encoding a block."""

    groups: list[Group]
    documents: int
    text_bytes: int
    without_tokens: list[int]
    """Source index of every document that the tokenizer encoded to no tokens."""
    kept: dict[int, Kept]
    """By source index."""


class Blocks:
    """Splits a stream of documents into blocks, numbers the sources and counts blank documents."""

    def __init__(self) -> None:
        self.sources: dict[str, int] = {}
        self.blank: dict[str, int] = {}
        self.documents = 0

    def cut(self, documents: Iterable[Document]) -> Iterator[Block]:
        """Yield blocks in the stream's order. Raises ValueError as `check_sources` does."""
        block, size = Block(), 0
        for text, source in documents:
            origin = self.documents
            self.documents += 1
            index = self.sources.setdefault(source, len(self.sources))
            check_sources(self.sources)
            if not text or text.isspace():
                self.blank[source] = self.blank.get(source, 0) + 1
                continue
            block.origins.append(origin)
            block.sources.append(index)
            block.names.append(source)
            block.texts.append(text)
            size += len(text)
            if size >= BLOCK_CHARACTERS or len(block.texts) == BLOCK_DOCUMENTS:
                yield block
                block, size = Block(), 0
        if block.texts:
            yield block


def check_sources(sources: dict[str, int]) -> None:
    """Raise ValueError if there are too many sources for them to be domains of the text."""
    if len(sources) > MOST_SOURCES:
        raise ValueError(
            f"the input has more than {MOST_SOURCES} sources ({list(sources)[-1]!r} is the last): a source is a domain "
            "of the text; set input.source_column to the column that names it, or to null"
        )


class Encoder:
    """Encodes blocks."""

    def __init__(self, tokenizer: TextTokenizer, held_out: HeldOut, dtype: str) -> None:
        self._tokenizer, self._held_out, self._dtype = tokenizer, held_out, np.dtype(dtype)
        self._lost = LostBytes(tokenizer)
        before = [tokenizer.end_of_text]  # a document starts with these
        if tokenizer.bos is not None and tokenizer.bos != tokenizer.end_of_text:
            before.append(tokenizer.bos)
        self._before = np.array(before, dtype=np.uint32)

    def encode(self, block: Block) -> EncodedBlock:
        """Encode a block. Raises ValueError if a text encodes to the end-of-text token or to BOS."""
        raw = [text.encode() for text in block.texts]
        encoded = self._tokenizer.encode(block.texts)
        lost, changed = self._lost.of(block.texts, raw, encoded)
        members: dict[tuple[int, int], list[int]] = {}
        without_tokens: list[int] = []
        for i, (text, source) in enumerate(zip(raw, block.sources, strict=True)):
            if len(encoded[i]) == 0:
                without_tokens.append(source)
                continue
            members.setdefault((self._held_out.slice_of(text, block.names[i])[0], source), []).append(i)
        groups = []
        for (slice_index, source), rows in members.items():
            lengths = np.array([len(encoded[i]) + len(self._before) for i in rows], dtype=np.int64)
            origins = np.array([block.origins[i] for i in rows], dtype=np.int64)
            ids = self._join([encoded[i] for i in rows], [block.texts[i] for i in rows])
            text_bytes = sum(len(raw[i]) for i in rows) - int(lost[rows].sum())
            groups.append(Group(slice_index, source, ids, lengths, origins, text_bytes))
        kept: dict[int, Kept] = {}
        for source, text, less, other in zip(block.sources, raw, lost.tolist(), changed.tolist(), strict=True):
            count = kept.setdefault(source, Kept())
            count.bytes, count.lost, count.changed = count.bytes + len(text), count.lost + less, count.changed + other
        return EncodedBlock(groups, len(raw), sum(map(len, raw)), without_tokens, kept)

    def _join(self, documents: list[npt.NDArray[np.uint32]], texts: list[str]) -> npt.NDArray[np.unsignedinteger]:
        ids = np.concatenate([part for document in documents for part in (self._before, document)])
        remedies = ("choose another one with tokenizer.end_of_text=...", "leave tokenizer.bos out")
        for token, remedy in zip(self._before.tolist(), remedies, strict=False):
            if np.count_nonzero(ids == token) != len(documents):
                forged = next(i for i, document in enumerate(documents) if (document == token).any())
                raise ValueError(
                    f"the document that starts with {texts[forged][:SHOWN_CHARACTERS]!r} encodes to the special token "
                    f"{self._tokenizer.decode([token])!r}: {remedy}"
                )
        assert int(ids.max()) < self._tokenizer.vocab_size, "an id outside the tokenizer's vocabulary"
        return ids.astype(self._dtype)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep the tokenizer from starting threads inside the block: `processes` sets the number of cores used."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
