"""`pdpc megatron`: export a slice of TOKENS as Megatron .bin and .idx files, one pair per source.

A document becomes one sequence: its tokens and an end-of-text, as with Megatron's `--append-eod`.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import xxhash
from rich.console import Console

from curriculum.artifact.create import create, reusable
from curriculum.artifact.manifest import open_manifest
from curriculum.tokens.foreign.files import INDEX_AT_ONCE, blocks
from curriculum.tokens.foreign.megatron import HEADER, MAGIC, TYPES, VERSION
from curriculum.tokens.tokens import FOREIGN_DTYPES, SLICES, Tokens
from curriculum.work.console import PlainConsole, say
from curriculum.work.progress import TokenProgress

KIND = "megatron"
LONGEST_NAME = 200
"""Characters of a pair's name; file systems allow 255 with the suffix."""
CUT_ESCAPE = re.compile("%.?$")
SMALL_VOCABULARY = 65_500  # Megatron uses uint16 below it, else int32


@dataclass(frozen=True)
class MegatronSettings:
    """Settings of `pdpc megatron`."""

    tokens: str
    """TOKENS folder to export."""
    output: str
    """Folder to write to; pairs are named by source, so Megatron's data path is OUTPUT/SOURCE."""
    slice: str = "train"
    """Slice to export: train, validation or reference."""

    def __post_init__(self) -> None:
        if self.slice not in SLICES:
            raise ValueError(f"slice={self.slice!r} is unknown: choose one of {', '.join(SLICES)}")
        if not self.output:
            raise ValueError("output is empty: name the folder to write to")


def run(settings: MegatronSettings, console: Console | None = None) -> Path:
    """Write the pairs, or reuse them if they are complete and match the settings; return their folder.

    The folder is complete or absent. Raises ValueError if the slice is empty, ArtifactError if the tokens are
    incomplete or `output` contains something else.
    """
    console = console or PlainConsole()
    folder = Path(os.path.expanduser(settings.output))
    tokens = Tokens.open(Path(os.path.expanduser(settings.tokens)), settings.slice)
    if not tokens.documents:
        raise ValueError(f"slice={settings.slice!r} of {settings.tokens} is empty: choose another")
    config, inputs = {"slice": settings.slice}, {"tokens": tokens.fingerprint}
    if reusable(folder, KIND, config=config, inputs=inputs):
        say(console, f"Megatron pairs at {folder}: complete, reused")
    else:
        with create(folder, KIND, config=config, inputs=inputs) as draft:
            draft.facts["sources"] = write_pairs(tokens, draft.path, console)
    for row in open_manifest(folder, KIND).facts["sources"]:
        there = f"{folder / row['pair']}.bin and .idx" if row["pair"] else "left out, it has no documents"
        say(console, f"{row['name']}: {row['documents']:,} documents, {row['tokens']:,} tokens: {there}")
    return folder


def write_pairs(tokens: Tokens, folder: Path, console: Console) -> list[dict[str, Any]]:
    """Write a pair for each source that has documents; return one row per source.

    Memory: 4 bytes per document of the largest source, and the largest document.
    """
    pairs = pair_names(tokens.sources)
    dtype = "uint16" if tokens.vocab_size < SMALL_VOCABULARY else "int32"
    rows: dict[str, dict[str, Any]] = {
        name: {"name": name, "pair": None, "documents": 0, "tokens": 0} for name in tokens.sources
    }
    documents = (tokens.document(index) for index in range(tokens.documents))
    with TokenProgress(console, "tokens", tokens.tokens) as progress:
        for name, members in groupby(documents, key=itemgetter(0)):
            pair = pairs[name]
            lengths = array("i")  # int32, as in the index
            with open(folder / f"{pair}.bin", "xb") as file:
                for _, ids in members:
                    file.write(np.append(ids, tokens.end_of_text).astype(FOREIGN_DTYPES[dtype]).tobytes())
                    lengths.append(len(ids) + 1)
                    progress.add(len(ids) + 1)
            total = _write_index(folder / f"{pair}.idx", dtype, np.frombuffer(lengths, dtype=np.int32))
            rows[name].update(pair=pair, documents=len(lengths), tokens=total)
    return list(rows.values())


def pair_names(sources: Sequence[str]) -> dict[str, str]:
    """Return a file name for every source: percent-encoded where needed, neither hidden, too long, nor another's.

    Names that are too long, or differ from another only by case, end in a digest of the source.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for source in sources:
        name = quote(source, safe=" ")
        name = f"%2E{name[1:]}" if name.startswith(".") else name
        if len(name) > LONGEST_NAME or name.casefold() in taken:
            digest = xxhash.xxh3_64_hexdigest(source.encode())
            name = f"{CUT_ESCAPE.sub('', name[: LONGEST_NAME - len(digest) - 1])}-{digest}"
        taken.add(name.casefold())
        names[source] = name
    return names


def _write_index(path: Path, dtype: str, lengths_S: npt.NDArray[np.int32]) -> int:
    """Write the index of contiguous sequences, one per document; return their number of tokens."""
    code = next(code for code, name in TYPES.items() if name == dtype)
    size = np.dtype(FOREIGN_DTYPES[dtype]).itemsize
    tokens = 0
    with open(path, "xb") as file:
        file.write(HEADER.pack(MAGIC, VERSION, code, len(lengths_S), len(lengths_S) + 1))
        file.write(lengths_S.astype("<i4").tobytes())
        for _, lengths in blocks(lengths_S):
            ends = tokens + np.cumsum(lengths, dtype=np.int64)
            file.write(((ends - lengths) * size).astype("<i8").tobytes())
            tokens = int(ends[-1])
        for start in range(0, len(lengths_S) + 1, INDEX_AT_ONCE):
            bounds = np.arange(start, min(start + INDEX_AT_ONCE, len(lengths_S) + 1))
            file.write(bounds.astype("<i8").tobytes())
    return tokens
