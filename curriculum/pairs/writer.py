"""Write the files of PAIRS in bounded memory: one temporary part per slice and source, joined at the end."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from curriculum.artifact.files import no_links
from curriculum.pairs.pairs import INDEX, OPTIONAL, POSITIONS, REWARDS, SLICES, part_name
from curriculum.tokens.tokens import DTYPES

COPY_BYTES = 8 << 20
HELD_TOKENS = 1 << 20
"""Tokens held in memory before they are appended to their parts."""


class Pair(NamedTuple):
    """A pair to be written."""

    prompt: npt.NDArray[Any]
    """Token ids, at least one."""
    answers: Sequence[npt.NDArray[Any]]
    """Token ids of the chosen answer, then of the rejected ones; at least one each."""
    origin: int
    """The record's ordinal in the input."""
    rewards: Sequence[float] | None = None
    """One per answer."""
    positions: npt.NDArray[Any] | None = None
    """Position of every token of the prompt and of the longest answer; they increase."""


@dataclass
class _Count:
    pairs: int = 0
    answers: int = 0
    tokens: int = 0
    labels: int = 0


class PairsWriter:
    """Collects pairs and joins them into the files of the slices."""

    def __init__(self, folder: Path, dtype: str, seq_len: int, *, rewards: bool, positions: bool = False) -> None:
        self._folder, self._seq_len = folder, seq_len
        self._facts = {REWARDS: rewards, POSITIONS: positions}
        self._types = {
            "ids": DTYPES[dtype],
            **INDEX,
            **{part: OPTIONAL[part] for part, on in self._facts.items() if on},
        }
        self._counts: defaultdict[tuple[int, int], _Count] = defaultdict(_Count)
        self._held: defaultdict[tuple[int, int, str], list[npt.NDArray[Any]]] = defaultdict(list)
        self._held_tokens = 0
        self._parts = folder / "parts.tmp"
        self._parts.mkdir()

    def append(self, slice_index: int, source: int, pair: Pair) -> None:
        """Add a pair to a slice (an index into SLICES) and a source (any number, named in `finish`)."""
        lengths = np.array([len(answer) for answer in pair.answers], dtype=np.int64)
        assert len(lengths) > 1, "a chosen answer and at least one rejected"
        assert len(pair.prompt) > 0 and lengths.min() > 0, "no sequence without prompt or answer"  # noqa: PT018
        assert len(pair.prompt) + lengths.max() <= self._seq_len + 1, "no sequence longer than seq_len + 1"
        columns: dict[str, npt.ArrayLike] = {
            "ids": np.concatenate([pair.prompt, *pair.answers]),
            "prompts": [len(pair.prompt)],
            "counts": [len(lengths)],
            "answers": lengths,
            "origins": [pair.origin],
        }
        if self._facts[REWARDS]:
            assert pair.rewards is not None and len(pair.rewards) == len(lengths), "one reward per answer"  # noqa: PT018
            columns[REWARDS] = pair.rewards
        if self._facts[POSITIONS]:
            columns[POSITIONS] = _positions(pair, lengths)
        for part, dtype in self._types.items():
            self._held[slice_index, source, part].append(np.asarray(columns[part]).astype(dtype))
        count = self._counts[slice_index, source]
        count.pairs, count.answers = count.pairs + 1, count.answers + len(lengths)
        count.labels += int(lengths.sum())
        count.tokens += len(pair.prompt) + int(lengths.sum())
        self._held_tokens += len(pair.prompt) + int(lengths.sum())
        if self._held_tokens >= HELD_TOKENS:
            self._spill()

    def finish(self, sources: Mapping[str, int]) -> dict[str, Any]:
        """Join the parts, with sources sorted by name; return facts: `slices`, `rewards`, `positions`."""
        self._spill()
        slices = {name: self._join(index, name, sorted(sources.items())) for index, name in enumerate(SLICES)}
        self._parts.rmdir()
        return {"slices": slices, **self._facts}

    def _spill(self) -> None:
        """Append what is held. Files are opened for each part: there can be more parts than file handles."""
        for (slice_index, source, part), arrays in self._held.items():
            with open(self._part(slice_index, source, part), "ab", opener=no_links) as file:
                file.write(np.concatenate(arrays).tobytes())
        self._held.clear()
        self._held_tokens = 0

    def _join(self, slice_index: int, slice_name: str, sources: list[tuple[str, int]]) -> dict[str, Any]:
        rows = []
        with ExitStack() as stack:
            files: dict[str, BinaryIO] = {
                part: stack.enter_context(open(self._folder / part_name(slice_name, part), "xb"))
                for part in self._types
            }
            for name, source in sources:
                count = self._counts[slice_index, source]
                for part in self._types if count.pairs else ():
                    path = self._part(slice_index, source, part)
                    with open(path, "rb") as file:
                        shutil.copyfileobj(file, files[part], COPY_BYTES)
                    path.unlink()
                rows.append({"name": name, **vars(count)})
        totals = {key: sum(int(row[key]) for row in rows) for key in vars(_Count())}
        return {**totals, "sources": rows}

    def _part(self, slice_index: int, source: int, part: str) -> Path:
        return self._parts / f"{slice_index}-{source}.{part}"


def _positions(pair: Pair, lengths: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Return the position of every stored token: every answer has those that follow the prompt's."""
    assert pair.positions is not None, "positions of every pair"
    prompt = len(pair.prompt)
    assert len(pair.positions) == prompt + lengths.max(), "a position for every token of the longest sequence"
    assert (np.diff(pair.positions) > 0).all(), "positions increase"
    return np.concatenate([pair.positions[:prompt], *(pair.positions[prompt : prompt + n] for n in lengths.tolist())])
