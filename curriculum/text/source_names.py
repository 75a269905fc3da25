"""Names of sources that come from the names of files and folders."""

from __future__ import annotations

import os
import re
from pathlib import Path

SHARD_WORDS = "part|shard|chunk|file|data|train|validation|valid|test|split|batch|block|segment|output"
CODECS = "snappy|gz|gzip|zstd|zst|lz4|lzo|brotli|br"
"""Compression inside Parquet, which Spark writes into a name: part-00000-UUID-c000.snappy.parquet."""
SHARD_START = rf"(?:(?:{SHARD_WORDS})?\d+|{SHARD_WORDS})"
SHARD = re.compile(rf"{SHARD_START}(?:[-_. ]+(?:{SHARD_START}|of|[rmc]\d*|{CODECS}))*")
UNIQUE = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|(?<![0-9a-z])[0-9a-f]{16,}(?![0-9a-z])")
"""A UUID, or the digest of a file's content."""
NUMBERED = re.compile(r"(?:^|[-_. ])\d+$|\d{3}$|(?<!\d)0\d{3}")


def folder_name(path: Path) -> str:
    """Return the name of the folder that a file is in; "" for the root."""
    return os.path.basename(os.path.dirname(os.path.abspath(path)))


def source_by_name(stem: str, nested: bool, path: Path) -> str:
    """Return the source of a file's documents when no column names it.

    A file in a subfolder of the input (`nested`) takes its folder's name, and so does one whose own name (`stem`) is
    nothing but a shard's number (part-0, train-00000-of-00042); any other takes its own name.
    """
    return (folder_name(path) if nested or _only_a_number(stem) else "") or stem


def looks_numbered(name: str) -> bool:
    """Return whether a name looks like a shard's number rather than a domain's name: part-0, wiki_0003, 00."""
    return _only_a_number(name) or NUMBERED.search(name) is not None


def _only_a_number(name: str) -> bool:
    plain = UNIQUE.sub("0", name.lower())
    return any(letter.isdigit() for letter in plain) and SHARD.fullmatch(plain) is not None
