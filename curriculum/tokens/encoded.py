"""Storage format of a tokenised chunk of text: blocks of document groups, then a summary."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum.tokens.encode import EncodedBlock, Group
from curriculum.work.chunks import Columns

PER_GROUP = 5
"""Numbers per group: slice, source index in the block, documents, tokens, bytes of text."""


def block_of(encoded: EncodedBlock, sources: Sequence[str]) -> Columns:
    """Return the columns of a block; its groups' source indices refer to `sources`."""
    groups = encoded.groups
    names = {source: index for index, source in enumerate(dict.fromkeys(group.source for group in groups))}
    numbers = [
        (group.slice, names[group.source], len(group.lengths), len(group.ids), group.text_bytes) for group in groups
    ]
    empty = np.zeros(0, dtype=np.int64)
    return {
        "told": _as_bytes({"sources": [sources[source] for source in names]}),
        "groups": np.array(numbers, dtype=np.int64).reshape(-1),
        "ids": np.concatenate([group.ids for group in groups]) if groups else empty,
        "lengths": np.concatenate([empty, *(group.lengths for group in groups)]),
        "origins": np.concatenate([empty, *(group.origins for group in groups)]),
    }


def groups_of(columns: Columns, sources: Mapping[str, int], before: int) -> Iterator[Group]:
    """Yield the groups of a block: `sources` maps names to numbers, `before` documents of the input precede it."""
    names = [sources[name] for name in metadata_of(columns)["sources"]]
    document = token = 0
    for slice_index, source, documents, tokens, text_bytes in columns["groups"].reshape(-1, PER_GROUP).tolist():
        rows = slice(document, document + documents)
        ids = columns["ids"][token : token + tokens]
        origins = columns["origins"][rows] + before
        yield Group(slice_index, names[source], ids, columns["lengths"][rows], origins, text_bytes)
        document, token = document + documents, token + tokens


def summary_of(value: Mapping[str, Any]) -> Columns:
    """Return JSON values as the columns of a block."""
    return {"told": _as_bytes(value)}


def metadata_of(columns: Columns) -> dict[str, Any]:
    """Return the JSON values of a block: its sources, or the summary."""
    value: dict[str, Any] = json.loads(columns["told"].tobytes())
    return value


def check_span(spans: Sequence[tuple[str, int, int]], ends: dict[str, int]) -> None:
    """Raise ValueError if a part of a file does not start where the previous part ended; record its end in `ends`.

    Compressed files are split at block boundaries, which may decompress differently in two versions of a library.
    """
    for name, first, last in spans:
        if first != (end := ends.get(name, 0)):
            raise ValueError(
                f"text/{name}: a part that starts at {first} follows one that ends at {end}: processes decompressed it "
                "differently; install the same zlib and zstandard on all machines, remove the chunks and start again"
            )
        ends[name] = last


def _as_bytes(value: Mapping[str, Any]) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)
