"""Write the files of TOKENS in bounded memory: one temporary part per slice and source, joined at the end."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from curriculum.artifact.files import no_links
from curriculum.tokens.encode import Group
from curriculum.tokens.tokens import DTYPES, PARTS, SLICES, part_name, samples_in

COPY_BYTES = 8 << 20
LENGTHS_AT_ONCE = 1 << 20
MOST_REASONS = 10
REASON_DETAIL = re.compile(r" \(.*\)(?=:)| at byte \d+|; columns are .*|: .*", re.DOTALL)
"""What differs between records that are bad for the same reason."""


def dtype_for(vocab_size: int) -> str:
    """Return the smallest dtype that fits every id: uint16 up to 65,536 tokens, else uint32."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


@dataclass
class _Count:
    documents: int = 0
    tokens: int = 0
    text_bytes: int = 0


class SkippedRecords:
    """Writes the list of skipped records, and counts them by reason; without a path there are none."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._reasons: Counter[str] = Counter()
        if path is not None:
            path.touch()

    def add(self, records: Iterable[tuple[str, str]]) -> None:
        """Append (place, reason) of records in the order of the input."""
        lines = []
        for place, reason in records:
            self._reasons[REASON_DETAIL.sub("", reason)] += 1
            lines.append(json.dumps({"place": place, "reason": reason}) + "\n")
        if lines:
            assert self._path is not None, "records are skipped only if that is asked for"
            with open(self._path, "a", encoding="utf-8", opener=no_links) as file:
                file.writelines(lines)

    def finish(self) -> dict[str, Any]:
        """Return the count, and counts by reason, the most frequent first."""
        most = self._reasons.most_common(MOST_REASONS)
        return {"count": self._reasons.total(), "by_reason": dict(most)}


class TokenWriter:
    """Collects encoded groups and joins them into the files of the slices."""

    def __init__(self, folder: Path, dtype: str, end_of_text: int, seq_len: int) -> None:
        self._folder = folder
        self._dtype = np.dtype(DTYPES[dtype])
        self._end_of_text = end_of_text
        self._seq_len = seq_len
        self._counts: defaultdict[tuple[int, int], _Count] = defaultdict(_Count)
        self._parts = folder / "parts.tmp"
        self._parts.mkdir()

    def append(self, group: Group) -> None:
        """Append a group to its part. Files are opened on every call: there can be more parts than file handles."""
        count = self._counts[group.slice, group.source]
        count.documents += len(group.lengths)
        count.tokens += int(group.lengths.sum())
        count.text_bytes += group.text_bytes
        arrays = {"ids": group.ids.astype(self._dtype), "starts": group.lengths, "origins": group.origins}
        for part, array in arrays.items():
            with open(self._part(group.slice, group.source, part), "ab", opener=no_links) as file:
                file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())

    def finish(self, sources: dict[str, int]) -> dict[str, Any]:
        """Join the parts, with sources sorted by name; return the `slices` table of the manifest's facts."""
        facts = {name: self._join(index, name, sorted(sources.items())) for index, name in enumerate(SLICES)}
        self._parts.rmdir()
        return facts

    def _join(self, slice_index: int, slice_name: str, sources: list[tuple[str, int]]) -> dict[str, Any]:
        rows = []
        first_token = 0
        with ExitStack() as stack:
            files: dict[str, BinaryIO] = {
                part: stack.enter_context(open(self._folder / part_name(slice_name, part), "xb")) for part in PARTS
            }
            for name, source in sources:
                count = self._counts[slice_index, source]
                if count.documents:
                    self._join_source(slice_index, source, files, first_token)
                    count.tokens += 1  # the final end-of-text
                    first_token += count.tokens
                rows.append({"name": name, **vars(count), "samples": samples_in(count.tokens, self._seq_len)})
        totals = {key: sum(int(row[key]) for row in rows) for key in ("documents", "tokens", "text_bytes", "samples")}
        return {**totals, "sources": rows}

    def _join_source(self, slice_index: int, source: int, files: dict[str, BinaryIO], first_token: int) -> None:
        """Append the parts of one source to the slice's files, and remove them."""
        paths = {part: self._part(slice_index, source, part) for part in PARTS}
        for part in ("ids", "origins"):
            with open(paths[part], "rb") as file:
                shutil.copyfileobj(file, files[part], COPY_BYTES)
        files["ids"].write(np.array([self._end_of_text], dtype=self._dtype).tobytes())
        with open(paths["starts"], "rb") as file:
            while block := file.read(8 * LENGTHS_AT_ONCE):
                lengths = np.frombuffer(block, dtype="<i8")
                starts = first_token + np.concatenate((np.zeros(1, dtype="<i8"), np.cumsum(lengths[:-1])))
                files["starts"].write(starts.astype("<i8").tobytes())
                first_token += int(lengths.sum())
        for path in paths.values():
            path.unlink()

    def _part(self, slice_index: int, source: int, part: str) -> Path:
        return self._parts / f"{slice_index}-{source}.{part}"
