"""Documents to token ids: held out by a hash of their text, encoded in chunks by one or many processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from curriculum.text_formats import Document
from curriculum.tokenizer import TextTokenizer
from curriculum.tokens import SLICES

CHUNK_CHARACTERS = 1 << 20
CHUNK_DOCUMENTS = 4096
CHUNKS_AHEAD = 2  # waiting or being encoded, for each worker: bounds the text in memory
MOST_SOURCES = 10_000
HALF = 64
INTERRUPTED = 128 + signal.SIGINT
"""Exit code, as a shell gives it."""

TRAIN, VALIDATION, REFERENCE = range(len(SLICES))


@dataclass(frozen=True)
class HeldOut:
    """Which documents are held out, decided by a keyed hash of the text alone: equal texts share a slice, and
    neither the order of the files nor the number of workers matters."""

    validation_fraction: float
    reference_fraction: float
    seed: int

    def slice_of(self, text: bytes) -> tuple[int, int]:
        """Return (index into SLICES, a second, independent 64-bit hash) of a text in UTF-8."""
        digest = xxhash.xxh3_128_intdigest(text, seed=self.seed)
        place = (digest >> HALF) / 2**HALF
        if place < self.validation_fraction:
            return VALIDATION, digest % 2**HALF
        if place < self.validation_fraction + self.reference_fraction:
            return REFERENCE, digest % 2**HALF
        return TRAIN, digest % 2**HALF


@dataclass
class Chunk:
    """About a megabyte of documents: their ordinals in the input, source indices and texts."""

    origins: list[int] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Group:
    """Encoded documents of one slice and one source, in input order."""

    slice: int
    source: int
    ids: npt.NDArray[np.unsignedinteger]
    """Every document as [end_of_text] + its tokens."""
    lengths: npt.NDArray[np.int64]
    """Tokens of each document, end-of-text included."""
    origins: npt.NDArray[np.int64]
    text_bytes: int


@dataclass(frozen=True)
class EncodedChunk:
    """What became of a chunk."""

    groups: list[Group]
    documents: int
    text_bytes: int
    without_tokens: list[int]
    """Source index of every document of which the tokenizer left nothing."""


class Chunker:
    """Cuts a stream of documents into chunks, numbers their sources and counts the blank ones."""

    def __init__(self) -> None:
        self.sources: dict[str, int] = {}
        self.blank: dict[str, int] = {}
        self.documents = 0

    def chunks(self, documents: Iterable[Document]) -> Iterator[Chunk]:
        """Yield chunks in input order. Raises ValueError when there are too many sources to be domains."""
        chunk, size = Chunk(), 0
        for text, source in documents:
            origin = self.documents
            self.documents += 1
            index = self.sources.setdefault(source, len(self.sources))
            if index >= MOST_SOURCES:
                raise ValueError(
                    f"the input has more than {MOST_SOURCES} sources ({source!r} is the last): a source is a domain of "
                    "the text; set input.source_column to the column that names it, or to null"
                )
            if not text or text.isspace():
                self.blank[source] = self.blank.get(source, 0) + 1
                continue
            chunk.origins.append(origin)
            chunk.sources.append(index)
            chunk.texts.append(text)
            size += len(text)
            if size >= CHUNK_CHARACTERS or len(chunk.texts) == CHUNK_DOCUMENTS:
                yield chunk
                chunk, size = Chunk(), 0
        if chunk.texts:
            yield chunk


class Encoder:
    """Encodes one chunk after the other in this process."""

    def __init__(self, tokenizer: TextTokenizer, held_out: HeldOut, dtype: str) -> None:
        self._tokenizer, self._held_out, self._dtype = tokenizer, held_out, np.dtype(dtype)

    def encode(self, chunk: Chunk) -> EncodedChunk:
        """Encode a chunk. Raises ValueError when the tokenizer breaks what TOKENS rely on."""
        raw = [text.encode() for text in chunk.texts]
        encoded = self._tokenizer.encode(chunk.texts)
        members: dict[tuple[int, int], list[int]] = {}
        without_tokens: list[int] = []
        for i, (text, source) in enumerate(zip(raw, chunk.sources, strict=True)):
            if len(encoded[i]) == 0:
                without_tokens.append(source)
                continue
            members.setdefault((self._held_out.slice_of(text)[0], source), []).append(i)
        groups = []
        for (slice_index, source), rows in members.items():
            lengths = np.array([len(encoded[i]) + 1 for i in rows], dtype=np.int64)
            origins = np.array([chunk.origins[i] for i in rows], dtype=np.int64)
            ids = self._join([encoded[i] for i in rows], origins)
            groups.append(Group(slice_index, source, ids, lengths, origins, sum(len(raw[i]) for i in rows)))
        return EncodedChunk(groups, len(raw), sum(map(len, raw)), without_tokens)

    def _join(
        self, documents: list[npt.NDArray[np.uint32]], origins: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.unsignedinteger]:
        end_of_text = self._tokenizer.end_of_text
        start = np.array([end_of_text], dtype=np.uint32)
        ids = np.concatenate([part for document in documents for part in (start, document)])
        if np.count_nonzero(ids == end_of_text) != len(documents):
            guilty = next(i for i, document in enumerate(documents) if (document == end_of_text).any())
            raise ValueError(
                f"document {origins[guilty]} of the input: its text was encoded to the end-of-text token "
                f"{self._tokenizer.end_of_text_token!r}: choose another with tokenizer.end_of_text=..."
            )
        assert int(ids.max()) < self._tokenizer.vocab_size, "an id outside the tokenizer's own vocabulary"
        return ids.astype(self._dtype)


def encode_chunks(
    chunks: Iterable[Chunk], tokenizer_folder: Path, held_out: HeldOut, dtype: str, workers: int
) -> Generator[EncodedChunk, None, None]:
    """Encode chunks with `workers` processes; the results come in input order, the same at any number of workers.

    One worker encodes in this process. At most CHUNKS_AHEAD chunks a worker are in memory. Close the generator to end
    the processes early. Raises ChildProcessError when one of them dies.
    """
    if workers == 1:
        with _one_thread():
            encoder = Encoder(TextTokenizer.open(tokenizer_folder), held_out, dtype)
            yield from map(encoder.encode, chunks)
        return
    context = multiprocessing.get_context("spawn")
    lifeline, held_end = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        workers,
        mp_context=context,
        initializer=_start_worker,
        initargs=(lifeline, tokenizer_folder, held_out, dtype),
    )
    waiting: deque[Future[EncodedChunk]] = deque()
    with _second_interrupt_leaves():
        try:
            for chunk in chunks:
                waiting.append(pool.submit(_encode, chunk))
                if len(waiting) >= CHUNKS_AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
            pool.shutdown()
        except BrokenProcessPool as error:
            raise ChildProcessError(
                f"a process that encodes text died, most likely for want of memory ({workers} ran): "
                "run again with fewer workers"
            ) from error
        finally:
            held_end.close()  # workers that still run end at once
            pool.shutdown(cancel_futures=True)
            lifeline.close()


@contextmanager
def _second_interrupt_leaves() -> Iterator[None]:
    """Let a second interrupt end this process at once: it may come while the first one is being answered.

    The workers end with it (`_end_with`), and the next run removes what was half written. A handler that is not
    Python's own is left alone, and so is one of another thread.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def answer(*_: object) -> None:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, answer)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


_encoder: Encoder | None = None  # of a worker process: a tokenizer is loaded once, not once a chunk


def _start_worker(lifeline: Connection, tokenizer_folder: Path, held_out: HeldOut, dtype: str) -> None:
    global _encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers it and ends its workers
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _encoder = Encoder(TextTokenizer.open(tokenizer_folder), held_out, dtype)


def _end_with(lifeline: Connection) -> None:
    """Leave when the other end of the pipe closes: the parent failed, or was killed and could not say so.

    The pool's own queue would keep a worker of a killed parent waiting for ever.
    """
    try:
        lifeline.recv()
    except (EOFError, OSError):
        os._exit(1)


def _encode(chunk: Chunk) -> EncodedChunk:
    assert _encoder is not None, "the pool's initializer ran"
    return _encoder.encode(chunk)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep the tokenizer from starting threads of its own, so that `workers` says how many cores are used."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
