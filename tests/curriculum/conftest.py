"""Writers of other people's token files, from their layouts alone, and a tokenizer whose ids they use."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from curriculum.tokenizer import TextTokenizer, train_tokenizer

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
