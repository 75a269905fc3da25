"""TOKENS: token ids on disk, read as fixed-length samples or as documents.

Layout of a slice (`train`, `validation`, `reference`), all numbers little-endian:

    <slice>.ids.bin      uint16 or uint32; source after source (sorted by name): every document as
                         [end_of_text] + its tokens, and one final end_of_text after the source's last document
    <slice>.starts.bin   int64 [documents]: where each document's end_of_text stands in <slice>.ids.bin
    <slice>.origins.bin  int64 [documents]: the document's ordinal in the input text

A sample is a window of seq_len + 1 tokens at stride seq_len inside one source, so every token but the source's first
is a label exactly once. Opening costs O(sources), reading a sample O(seq_len): everything is memory-mapped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curriculum.artifact import ArtifactError, Manifest, fingerprint_of, open_manifest

KIND = "tokens"
SLICES = ("train", "validation", "reference")
IGNORED = -100
DTYPES = {"uint16": "<u2", "uint32": "<u4"}
PARTS = {"ids": None, "starts": "<i8", "origins": "<i8"}

IntArray = npt.NDArray[np.int64]


def samples_in(tokens: int, seq_len: int) -> int:
    """Number of samples of a source with `tokens` tokens (end-of-text included): ceil((tokens - 1) / seq_len)."""
    return -(-max(tokens - 1, 0) // seq_len)


def part_name(slice_name: str, part: str) -> str:
    """File name of one part (`ids`, `starts`, `origins`) of a slice."""
    return f"{slice_name}.{part}.bin"


class Tokens:
    """One slice of a TOKENS artifact. Make it with `Tokens.open`; it travels between processes as its path."""

    def __init__(self, folder: Path, slice_name: str, manifest: Manifest) -> None:
        facts = manifest.facts
        table = facts["slices"][slice_name]["sources"]
        self.folder = folder
        self.slice = slice_name
        self.seq_len: int = int(facts["seq_len"])
        self.vocab_size: int = int(facts["vocab_size"])
        self.end_of_text: int = int(facts["end_of_text"])
        self.tokenizer_fingerprint: str = facts["tokenizer_fingerprint"]
        self.tokenizer_folder: Path = folder / "tokenizer"
        self.sources: list[str] = [row["name"] for row in table]
        counts = [(int(row["tokens"]), int(row["documents"])) for row in table]
        self._source_tokens = np.array([tokens for tokens, _ in counts], dtype=np.int64)
        self._token_ends = np.cumsum(self._source_tokens)
        self._document_ends = np.cumsum([documents for _, documents in counts], dtype=np.int64)
        samples = [samples_in(tokens, self.seq_len) for tokens, _ in counts]
        self._sample_ends = np.cumsum(samples, dtype=np.int64)
        self.documents: int = sum(documents for _, documents in counts)
        self._samples: int = sum(samples)
        totals = {"ids": sum(tokens for tokens, _ in counts), "starts": self.documents, "origins": self.documents}
        dtypes = {**PARTS, "ids": DTYPES[facts["dtype"]]}
        maps = {part: _map(folder, slice_name, part, manifest, dtypes[part], totals[part]) for part in PARTS}
        self._ids, self._starts, self._origins = maps["ids"], maps["starts"], maps["origins"]
        self.fingerprint: str = _fingerprint(manifest, slice_name)

    @classmethod
    def open(cls, folder: str | Path, slice: str = "train") -> Tokens:
        """Open one slice of a TOKENS folder without reading it.

        Raises ValueError for an unknown slice, ArtifactError when the folder is missing, torn or foreign.
        """
        if slice not in SLICES:
            raise ValueError(f"slice={slice!r} is unknown: choose one of {', '.join(SLICES)}")
        folder = Path(folder)
        manifest = open_manifest(folder, KIND)
        try:
            return cls(folder, slice, manifest)
        except (KeyError, TypeError) as error:
            raise ArtifactError(
                f"{folder}/manifest.json lacks what TOKENS need ({error!r}): remove {folder} and prepare again"
            ) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokens.open, (self.folder, self.slice)

    def __len__(self) -> int:
        return self._samples

    def sample(self, ids: npt.ArrayLike) -> IntArray:
        """Return samples as int64 [n, seq_len + 1]; positions past the end of a source are IGNORED.

        ids: int [n], each in [0, len(self)). Raises ValueError for anything else. O(n * seq_len).
        """
        starts, lengths, _ = self._windows(ids)
        out = np.full((len(starts), self.seq_len + 1), IGNORED, dtype=np.int64)
        full = lengths == self.seq_len + 1
        if full.any():
            windows = np.lib.stride_tricks.sliding_window_view(self._ids, self.seq_len + 1)
            out[full] = windows[starts[full]]
        for row in np.flatnonzero(~full):  # at most one sample of a source is short
            out[row, : lengths[row]] = self._ids[starts[row] : starts[row] + lengths[row]]
        return out

    def real_tokens(self, ids: npt.ArrayLike) -> IntArray:
        """Return the number of labels of each sample that are not IGNORED, int64 [n] in [1, seq_len]."""
        return self._windows(ids)[1] - 1

    def source_of(self, ids: npt.ArrayLike) -> IntArray:
        """Return each sample's index into `self.sources`, int64 [n]."""
        return self._windows(ids)[2]

    def samples_of(self, source: int) -> range:
        """Return the sample ids of one source, given by its index into `self.sources`; empty where it has none."""
        if not 0 <= source < len(self.sources):
            raise ValueError(f"source index {source} is not in [0, {len(self.sources)}): {self._place()}")
        return range(int(self._sample_ends[source - 1]) if source else 0, int(self._sample_ends[source]))

    def document(self, index: int) -> tuple[str, IntArray]:
        """Return (source, token ids int64 [length]) of a document, without its end-of-text."""
        self._check_document(index)
        source = int(np.searchsorted(self._document_ends, index, side="right"))
        start = int(self._starts[index]) + 1
        last = index + 1 == int(self._document_ends[source])
        stop = int(self._token_ends[source]) - 1 if last else int(self._starts[index + 1])
        return self.sources[source], np.asarray(self._ids[start:stop], dtype=np.int64)

    def origin(self, index: int) -> int:
        """Return a document's ordinal in the input text, as `prepare` read it (blank documents counted)."""
        self._check_document(index)
        return int(self._origins[index])

    @property
    def origins(self) -> IntArray:
        """Return the ordinal in the input text of every document of this slice, int64 [documents]."""
        return np.asarray(self._origins)

    def document_means(self, values: npt.NDArray[np.float32], ids: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return the mean over each sample's documents, weighted by their tokens in it, float32 [n].

        values: one number a document, float32 [documents]; nan where a document of the sample has a number that is not
        finite. O(n log documents + the samples' documents).
        """
        begin, length, _ = self._windows(ids)
        starts = np.asarray(self._starts)
        first = np.searchsorted(starts, begin, side="right") - 1
        number = np.searchsorted(starts, begin + length, side="left") - first  # documents of each sample
        sample = np.repeat(np.arange(len(number)), number)
        document = np.arange(len(sample)) - np.repeat(np.cumsum(number) - number, number) + np.repeat(first, number)
        ends = np.append(starts[1:], len(self._ids))
        inside = np.minimum(ends[document], (begin + length)[sample]) - np.maximum(starts[document], begin[sample])
        with np.errstate(invalid="ignore"):
            weighted = np.asarray(values, dtype=np.float64)[document] * inside
            means = np.bincount(sample, weights=weighted, minlength=len(number)) / length
        return np.where(np.isfinite(means), means, np.nan).astype(np.float32)

    def _windows(self, ids: npt.ArrayLike) -> tuple[IntArray, IntArray, IntArray]:
        """Return start in the ids file, length in tokens and source of each sample, all int64 [n]."""
        wanted = self._checked(ids)
        source = np.searchsorted(self._sample_ends, wanted, side="right").astype(np.int64)
        ends = self._token_ends[source]
        first_token = ends - self._source_tokens[source]
        before = np.concatenate((np.zeros(1, dtype=np.int64), self._sample_ends))[source]
        starts = first_token + (wanted - before) * self.seq_len
        return starts, np.minimum(ends - starts, self.seq_len + 1), source

    def _checked(self, ids: npt.ArrayLike) -> IntArray:
        array = np.asarray(ids)
        if array.size == 0 and array.ndim == 1:
            return np.zeros(0, dtype=np.int64)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise ValueError(f"sample ids must be integers in one dimension, got {array.dtype} {array.shape}")
        outside = (array < 0) | (array >= self._samples)
        if outside.any():
            raise ValueError(
                f"sample id {array[outside][0]} is not in [0, {self._samples}): {self._place()}; "
                "were these ids made for another artifact or slice?"
            )
        return array.astype(np.int64)

    def _check_document(self, index: int) -> None:
        if not 0 <= index < self.documents:
            raise ValueError(f"document {index} is not in [0, {self.documents}): {self._place()}")

    def _place(self) -> str:
        return f"slice {self.slice!r} of {self.folder}"


def _map(
    folder: Path, slice_name: str, part: str, manifest: Manifest, dtype: str | None, count: int
) -> npt.NDArray[Any]:
    """Memory-map one part after checking that its size is what the facts say."""
    name = part_name(slice_name, part)
    kind = np.dtype(dtype)
    entry = manifest.files.get(name)
    if entry is None or entry.bytes != count * kind.itemsize:
        there = "is not listed in the manifest" if entry is None else f"has {entry.bytes} bytes"
        raise ArtifactError(
            f"{folder / name} {there}, {count} numbers of {kind.itemsize} bytes were expected: "
            f"remove {folder} and prepare again"
        )
    if count == 0:  # an empty file cannot be mapped
        return np.zeros(0, dtype=kind)
    return np.memmap(folder / name, dtype=kind, mode="r", shape=(count,))


def _fingerprint(manifest: Manifest, slice_name: str) -> str:
    """Identity of what this slice yields: its bytes, how they are cut, and the tokenizer that made them."""
    facts = manifest.facts
    return fingerprint_of(
        {
            "slice": slice_name,
            "seq_len": facts["seq_len"],
            "end_of_text": facts["end_of_text"],
            "tokenizer": facts["tokenizer_fingerprint"],
            "sources": facts["slices"][slice_name]["sources"],
            "files": {part: manifest.files[part_name(slice_name, part)].xxh3_128 for part in PARTS},
        }
    )
