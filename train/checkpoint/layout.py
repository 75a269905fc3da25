"""Layout of a rank's file: float32 vectors `<parameter>/<tensor>` in a safetensors file.

    8 bytes      length of the header, little-endian
    header       JSON: type, shape and offsets of each vector; `starts`: where the rank's part begins in the flattened
                 parameter. Padded with blanks, so that the data begin at a disk block boundary
    data         the vectors in header order, without gaps

Any other file is rejected before a byte of its data is used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum.artifact.files import ArtifactError
from train.engine import MOMENTS, Fragment

KINDS = ("param", *MOMENTS)
"""The vectors of every fragment, in the order in which they are written."""
AVERAGE = "ema"
"""The running average of a fragment's weights, if the run keeps one; written last."""
BLOCK = 4096
"""Bytes; files are written in whole blocks, bypassing the page cache."""
WORD = 4
"""Bytes of a float32."""
LARGEST_HEADER = 100 << 20
"""Bytes; the limit of the safetensors library."""


@dataclass(frozen=True)
class Part:
    """One vector in a file."""

    name: str
    """Parameter name."""
    kind: str
    """One of KINDS, or AVERAGE."""
    start: int
    """Offset in the flattened parameter, in elements."""
    length: int
    """Elements."""
    offset: int
    """Offset in the file, in bytes."""

    @property
    def stop(self) -> int:
        """Offset in the flattened parameter after the last element."""
        return self.start + self.length


def rank_file(rank: int) -> str:
    """Return the name of a rank's file."""
    return f"rank_{rank:05d}.safetensors"


def header_of(fragments: Iterable[Fragment]) -> tuple[bytes, int]:
    """Return the first bytes of a rank's file, up to its data, and the size of the complete file in bytes."""
    table: dict[str, Any] = {}
    starts: dict[str, int] = {}
    place = 0
    for fragment in fragments:
        assert fragment.name not in starts, f"this rank has two fragments of {fragment.name}"
        starts[fragment.name] = fragment.start
        for kind in kinds_of(fragment):
            length = fragment.tensors[kind].numel()
            end = place + WORD * length
            table[f"{fragment.name}/{kind}"] = {"dtype": "F32", "shape": [length], "data_offsets": [place, end]}
            place = end
    text = json.dumps({"__metadata__": {"starts": json.dumps(starts)}, **table}, separators=(",", ":")).encode()
    whole = -(-(8 + len(text)) // BLOCK) * BLOCK
    return (whole - 8).to_bytes(8, "little") + text.ljust(whole - 8), whole + place


def kinds_of(fragment: Fragment) -> tuple[str, ...]:
    """Return the kinds of vectors in a fragment, in the order in which they are written."""
    return (*KINDS, AVERAGE) if AVERAGE in fragment.tensors else KINDS


def read_header(path: Path, descriptor: int, sizes: Mapping[str, int]) -> list[Part]:
    """Read and check the header of an open file; return its vectors. `sizes`: elements of every model parameter.

    Raises ArtifactError naming the file and the problem.
    """
    file_bytes = os.fstat(descriptor).st_size
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    if file_bytes < 8 or length > min(LARGEST_HEADER, file_bytes - 8):
        raise _refused(path, f"its header of {length} bytes does not fit into {file_bytes} bytes")
    text = os.pread(descriptor, length, 8)
    try:
        table = json.loads(text)
        starts = json.loads(table.pop("__metadata__")["starts"])
        entries = [(key, entry["dtype"], entry["shape"], entry["data_offsets"]) for key, entry in table.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _refused(path, f"its header cannot be read ({error!r})") from error
    parts = []
    place = 0
    for key, dtype, shape, offsets in entries:
        name, _, kind = key.rpartition("/")
        if name not in sizes:
            raise ArtifactError(f"{path} has a parameter {name!r} that the model lacks: the run's model was changed")
        if kind not in (*KINDS, AVERAGE):
            known = ", ".join((*KINDS, AVERAGE))
            raise _refused(path, f"unknown vector {key!r}: expected one of {known}")
        if dtype != "F32" or not _whole_numbers(shape, 1) or not _whole_numbers(offsets, 2):
            raise _refused(path, f"{key} is {dtype} {shape} at {offsets}, not a float32 vector")
        if offsets != [place, place + WORD * shape[0]]:
            raise _refused(path, f"{key} with {shape[0]} elements has offsets {offsets} instead of starting at {place}")
        start = starts.get(name) if isinstance(starts, dict) else None
        if type(start) is not int or not 0 <= start <= sizes[name] - shape[0]:
            raise _refused(path, f"{key} begins at {start!r} with {shape[0]} of the parameter's {sizes[name]} elements")
        parts.append(Part(name, kind, start, shape[0], 8 + length + place))
        place = offsets[1]
    if 8 + length + place != file_bytes:
        raise _refused(path, f"its header describes {8 + length + place} bytes, but it has {file_bytes}")
    return parts


def check_complete(folder: Path, parts: Sequence[Part], sizes: Mapping[str, int], kinds: Sequence[str]) -> None:
    """Raise ArtifactError unless the files together hold every element of every parameter exactly once."""
    ranges: dict[tuple[str, str], list[tuple[int, int]]] = {(name, kind): [] for name in sizes for kind in kinds}
    for part in parts:
        if part.kind in kinds:
            ranges[part.name, part.kind].append((part.start, part.stop))
    for (name, kind), found in ranges.items():
        place = 0
        for start, stop in sorted(found):
            if start > place:
                break
            if start < place:
                raise ArtifactError(
                    f"{folder} holds elements {start} to {place} of {name}/{kind} twice: resume from another checkpoint"
                )
            place = stop
        if place != sizes[name]:
            raise ArtifactError(
                f"{folder} holds {sum(stop - start for start, stop in found)} of {sizes[name]} elements of {name}: it "
                "is incomplete or belongs to another model; resume from another checkpoint"
            )


def _whole_numbers(value: Any, number: int) -> bool:
    return isinstance(value, list) and len(value) == number and all(type(v) is int and v >= 0 for v in value)


def _refused(path: Path, what: str) -> ArtifactError:
    return ArtifactError(f"{path}: {what}: it is damaged or was not written by PDPC; resume from another checkpoint")
