"""Fixtures of the curriculum tests: foreign token files, written independently from their layouts, and random samples.

PDPC_EXAMPLES sets the number of Hypothesis examples per test.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings

from curriculum.artifact.create import create
from curriculum.tokens.tokenizer import TextTokenizer, train_tokenizer
from curriculum.tokens.tokens import Tokens

CODES = {"B": 1, "b": 2, "h": 3, "i": 4, "q": 5, "d": 6, "f": 7, "H": 8}

Documents = Sequence[Sequence[int]]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of 257 ids: the bytes and end-of-text."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["text"], 257).save(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> TextTokenizer:
    return TextTokenizer.open(tokenizer_folder)


@pytest.fixture(scope="session")
def write_megatron() -> Callable[..., Path]:
    def write(prefix: Path, documents: Sequence[Documents], letter: str = "i", tail: bytes = b"") -> Path:
        """Documents are lists of sequences. Return the prefix."""
        sequences = [sequence for document in documents for sequence in document]
        prefix.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{prefix}.bin", "wb") as file:
            for sequence in sequences:
                file.write(struct.pack(f"<{len(sequence)}{letter}", *sequence))
        with open(f"{prefix}.idx", "wb") as file:
            file.write(b"MMIDIDX\x00\x00" + struct.pack("<Q", 1) + struct.pack("<B", CODES[letter]))
            file.write(struct.pack("<QQ", len(sequences), len(documents) + 1))
            file.write(struct.pack(f"<{len(sequences)}i", *map(len, sequences)))
            place = 0
            for sequence in sequences:
                file.write(struct.pack("<q", place))
                place += len(sequence) * struct.calcsize(f"<{letter}")
            bound = 0
            file.write(struct.pack("<q", 0))
            for document in documents:
                bound += len(document)
                file.write(struct.pack("<q", bound))
            file.write(tail)
        return prefix

    return write


@pytest.fixture(scope="session")
def write_datatrove() -> Callable[..., Path]:
    def write(path: Path, documents: Documents, letter: str = "H") -> Path:
        """Return the path of the .ds file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        ends, end = [], 0
        with open(path, "wb") as file:
            for document in documents:
                file.write(struct.pack(f"<{len(document)}{letter}", *document))
                end += len(document)
                ends.append(end)
        Path(f"{path}.index").write_bytes(struct.pack(f"<{len(ends)}Q", *ends))
        return path

    return write


settings.register_profile(
    "curriculum",
    derandomize=True,
    deadline=None,
    max_examples=int(os.environ.get("PDPC_EXAMPLES", "20")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("curriculum")

SEQ_LEN = 4


def write_tokens(folder: Path, sources: dict[str, int]) -> Tokens:
    """TOKENS whose train slice has N samples per source; documents of 1 to 9 tokens, sources in the given order."""
    rng = np.random.default_rng(len(sources))
    table, starts, ends, end = [], [], [], 0
    for name, samples in sources.items():
        size = (samples - 1) * SEQ_LEN + 1 + int(rng.integers(1, SEQ_LEN + 1)) if samples else 0
        mine, at = [], 0
        while at < size - 1:
            mine.append(end + at)
            at += int(rng.integers(2, 11))
        table.append({"name": name, "documents": len(mine), "tokens": size})
        starts += mine
        end += size
        ends += [end - 1] if size else []
    with create(folder, "tokens", config={}, inputs={}) as draft:
        ids = np.ones(end, "<u2")
        ids[[*starts, *ends]] = 0  # end-of-text
        ids.tofile(draft.path / "train.ids.bin")
        np.array(starts, "<i8").tofile(draft.path / "train.starts.bin")
        rng.permutation(len(starts)).astype("<i8").tofile(draft.path / "train.origins.bin")
        draft.facts.update(
            seq_len=SEQ_LEN, vocab_size=8, end_of_text=0, dtype="uint16", tokenizer_fingerprint="t" * 32,
            slices={"train": {"sources": table}},
        )  # fmt: skip
    return Tokens.open(folder)


@pytest.fixture(scope="session")
def tokens_of():
    """Write TOKENS with N samples per source."""
    return write_tokens


@pytest.fixture(scope="session")
def parquet():
    """Write columns as a Parquet file; return its path as text."""

    def write(path: Path, **columns: object) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
        return str(path)

    return write
