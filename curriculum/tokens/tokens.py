"""TOKENS: token ids on disk, read as fixed-length samples or as documents.

Layout of a slice (`train`, `validation`, `reference`), all numbers little-endian:

    <slice>.ids.bin      uint16 or uint32; source by source (sorted by name): every document as
                         [end_of_text] + its tokens, and one final end_of_text after the source's last document;
                         with tokenizer.bos, the first token of each is BOS (none more if that is end_of_text)
    <slice>.starts.bin   int64 [documents]: position of each document's end_of_text in <slice>.ids.bin
    <slice>.origins.bin  int64 [documents]: the document's ordinal in the input text

A sample is a window of seq_len + 1 tokens at stride seq_len within one source, so every token except the source's first
is a label exactly once; BOS, which the text does not hold, is an input and never a label. blocks.bin holds a
checksum for every 256 KiB of each file (curriculum/artifact/blocks.py). Opening costs O(sources) and reads those
checksums (32 MB for 10^12 bytes), reading a sample O(seq_len): ids are memory-mapped, the rest is read on demand
(curriculum/artifact/guard.py).

Adopted TOKENS (`pdpc adopt`) have no <slice>.ids.bin: each source lists external files, which stay in place, and starts
count from the first token of the slice's first file. There a sample is a window within one file, and a file's first
token is never a label. Documents are separated by end_of_text as in a native slice: it is either the first token of a
document or the last token of the previous one, so attention restarts at that token. The only difference is that the
very first document need not be preceded by one.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from pathlib import Path

import numpy as np
import numpy.typing as npt

from curriculum.artifact.blocks import Blocks
from curriculum.artifact.files import ArtifactError, fingerprint_of, reading
from curriculum.artifact.manifest import MANIFEST, Manifest, open_manifest
from curriculum.tokens.ids import IntArray, NumberFile, Numbers, TokenIds
from curriculum.tokens.samples import Samples, number_file

KIND = "tokens"
SLICES = ("train", "validation", "reference")
IGNORED = -100
DTYPES = {"uint16": "<u2", "uint32": "<u4"}
FOREIGN_DTYPES = {"uint8": "|u1", "int8": "|i1", "int16": "<i2", "int32": "<i4", "int64": "<i8", **DTYPES}
INDEX_PARTS = ("starts", "origins")
PARTS = ("ids", *INDEX_PARTS)
INDEX_DTYPE = "<i8"
AT_ONCE = 1024
"""Samples that labels are counted in at a time."""


def samples_in(tokens: int, seq_len: int) -> int:
    """Return the number of samples in `tokens` tokens (end-of-text included): ceil((tokens - 1) / seq_len)."""
    return -(-max(tokens - 1, 0) // seq_len)


def part_name(slice_name: str, part: str) -> str:
    """Return the file name of one part (`ids`, `starts`, `origins`) of a slice."""
    return f"{slice_name}.{part}.bin"


class Tokens(Samples):
    """One slice of a TOKENS artifact. Create it with `Tokens.open`."""

    def __init__(self, folder: Path, slice_name: str, manifest: Manifest) -> None:
        super().__init__(folder, slice_name, manifest)
        table = manifest.facts["slices"][slice_name]["sources"]
        runs = [(source, run) for source, row in enumerate(table) for run in row.get("files", [row])]
        self._run_source = np.array([source for source, _ in runs], dtype=np.int64)
        self._run_tokens = np.array([int(run["tokens"]) for _, run in runs], dtype=np.int64)
        self._token_ends = np.cumsum(self._run_tokens)
        self._document_ends = np.cumsum([int(run["documents"]) for _, run in runs], dtype=np.int64)
        samples = np.array([samples_in(int(tokens), self.seq_len) for tokens in self._run_tokens], dtype=np.int64)
        self._sample_ends = np.cumsum(samples)
        self._first_samples = self._sample_ends - samples
        self.documents: int = sum(int(run["documents"]) for _, run in runs)
        self.tokens: int = int(self._run_tokens.sum())
        self._samples: int = int(samples.sum())
        self._adopted = any("files" in row for row in table)
        blocks = Blocks(folder, manifest)
        self._ids = TokenIds(_id_files(folder, slice_name, manifest, blocks), self.seq_len + 1)
        parts = [
            number_file(folder, part_name(slice_name, part), manifest, INDEX_DTYPE, self.documents, blocks)
            for part in INDEX_PARTS
        ]
        self._starts, self._origins = (Numbers(part) for part in parts)
        self.fingerprint: str = _fingerprint(manifest, slice_name)

    @classmethod
    def open(cls, folder: str | Path, slice: str = "train") -> Tokens:
        """Open one slice of a TOKENS folder without reading it.

        Raises ValueError for an unknown slice, ArtifactError if the folder is missing, truncated or not TOKENS.
        """
        if slice not in SLICES:
            raise ValueError(f"slice={slice!r} is unknown: choose one of {', '.join(SLICES)}")
        folder = Path(folder)
        manifest = open_manifest(folder, KIND)
        with reading(folder / MANIFEST, f"it lacks fields of TOKENS; remove {folder} and prepare again"):
            return cls(folder, slice, manifest)

    def __len__(self) -> int:
        return self._samples

    def sample(self, ids: npt.ArrayLike) -> IntArray:
        """Return samples, int64 [n, seq_len + 1]; positions after the end of a source are IGNORED.

        ids: int [n], each in [0, len(self)). Raises ValueError for anything else. O(n * seq_len).
        """
        starts, lengths, _ = self._windows(ids)
        out = np.full((len(starts), self.seq_len + 1), IGNORED, dtype=np.int64)
        full = lengths == self.seq_len + 1
        if full.any():
            out[full] = self._ids.rows(starts[full])
        for row in np.flatnonzero(~full):  # at most one sample per source, or per foreign file, is short
            out[row, : lengths[row]] = self._ids.span(int(starts[row]), int(starts[row] + lengths[row]))
        return out

    def labels(self, ids: npt.ArrayLike) -> IntArray:
        """Return the labels of samples, int64 [n, seq_len]; IGNORED after the end of a source, and in place of BOS."""
        labels = self.sample(ids)[:, 1:]
        if self.input_only is not None:
            labels[labels == self.input_only] = IGNORED
        return labels

    def recheck(self) -> None:
        """Raise UnreadableError unless all samples that were read before this call were intact."""
        self._ids.recheck()

    def real_tokens(self, ids: npt.ArrayLike, first: int | None = None) -> IntArray:
        """Return the number of labels of each sample, or of its first `first` tokens, that are not IGNORED, int64 [n].

        O(1) per sample; O(log documents) with BOS, and O(seq_len) if the TOKENS are adopted or the ids far apart.
        """
        begin, length, _ = self._windows(ids)
        count = length - 1 if first is None else np.minimum(length - 1, first)
        if self.input_only is None or not len(begin):
            return count
        # A document's BOS follows its start, so it is one of the labels if the start is one of their inputs.
        least, most = bisect_left(self._starts, begin.min()), bisect_left(self._starts, (begin + count).max())
        if not self._adopted and most - least <= int(count.sum()):
            starts = self._starts[least:most]
            return count - np.searchsorted(starts, begin + count) + np.searchsorted(starts, begin)
        wanted = np.asarray(ids)
        parts = [wanted[at : at + AT_ONCE] for at in range(0, len(wanted), AT_ONCE)]
        return np.concatenate([(self.labels(part)[:, :first] != IGNORED).sum(axis=1) for part in parts])

    @property
    def maybe_short(self) -> IntArray:
        """Return the ids of samples that may be shorter than `seq_len`: the last one of each source or file."""
        return self._sample_ends[self._sample_ends > self._first_samples] - 1

    def source_of(self, ids: npt.ArrayLike) -> IntArray:
        """Return each sample's index into `self.sources`, int64 [n]."""
        return self._windows(ids)[2]

    def samples_of(self, source: int) -> range:
        """Return the sample ids of one source, given by its index into `self.sources`; empty if it has none."""
        if not 0 <= source < len(self.sources):
            raise ValueError(f"source index {source} is not in [0, {len(self.sources)}): {self._place()}")
        first, stop = np.searchsorted(self._run_source, [source, source + 1])
        bounds = np.concatenate((np.zeros(1, dtype=np.int64), self._sample_ends))
        return range(int(bounds[first]), int(bounds[stop]))

    def document(self, index: int) -> tuple[str, IntArray]:
        """Return (source, token ids int64 [length]) of a document, without end-of-text at its start or end.

        BOS, where documents start with it, is the first id unless it is end-of-text.
        """
        self._check_document(index)
        run = int(np.searchsorted(self._document_ends, index, side="right"))
        last = index + 1 == int(self._document_ends[run])
        stop = int(self._token_ends[run]) if last else self._starts[index + 1]
        ids = self._ids.span(self._starts[index], stop)
        ids = ids[1:] if len(ids) and ids[0] == self.end_of_text else ids
        ids = ids[:-1] if len(ids) and ids[-1] == self.end_of_text else ids
        return self.sources[self._run_source[run]], ids

    def origin(self, index: int) -> int:
        """Return a document's ordinal in the input text as `prepare` read it (blank documents count)."""
        self._check_document(index)
        return self._origins[index]

    @property
    def origins(self) -> IntArray:
        """Return the ordinal in the input text of every document of this slice, int64 [documents]."""
        return self._origins[:]

    def documents_in(self, sample: int) -> IntArray:
        """Return the documents in a sample's inputs, int64 [documents, 2]: index, and number of tokens in the sample.

        The end-of-text before a document counts as its token.
        """
        begin, length, _ = (int(part[0]) for part in self._windows([sample]))
        end = begin + length - 1
        first, stop = bisect_right(self._starts, begin) - 1, bisect_left(self._starts, end)
        edges = np.array([begin, *self._starts[first + 1 : stop], end], dtype=np.int64)
        return np.stack([np.arange(first, stop), np.diff(edges)], axis=1)

    def document_spans(self, ids: npt.ArrayLike) -> tuple[IntArray, IntArray, IntArray]:
        """Return the stretches of samples that belong to one document: row of `ids`, document, labels, all int64 [S].

        Ordered by row, then by position. A label belongs to the document of the token before it, from which it is
        predicted: the end-of-text after a document is a label of that document. O(n log documents + S).
        """
        begin, length, _ = self._windows(ids)
        if not len(begin):
            return (np.zeros(0, dtype=np.int64),) * 3
        end = begin + length - 1
        least = max(bisect_right(self._starts, begin.min()) - 1, 0)  # the samples' documents are in [least, most)
        most = bisect_left(self._starts, end.max())
        starts = np.append(self._starts[least:most], self._starts[most] if most < self.documents else self.tokens)
        first = np.maximum(np.searchsorted(starts, begin, side="right") - 1, 0)
        number = np.searchsorted(starts[:-1], end, side="left") - first  # documents of each sample
        row = np.repeat(np.arange(len(number)), number)
        place = np.arange(len(row)) - np.repeat(np.cumsum(number) - number, number) + np.repeat(first, number)
        head = np.append(True, row[1:] != row[:-1])  # a sample's first stretch starts where the sample does
        labels = np.minimum(starts[place + 1], end[row]) - np.where(head, begin[row], starts[place])
        full = labels > 0
        return row[full], place[full] + least, labels[full]

    def document_means(self, values: npt.NDArray[np.float32], ids: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return the mean over each sample's documents, weighted by their tokens in it, float32 [n].

        values: one number per document, float32 [documents]. The mean is nan if one of a sample's documents has a
        non-finite value. O(n log documents + the documents between the samples' first and last).
        """
        begin, length, _ = self._windows(ids)
        if not len(begin):
            return np.zeros(0, dtype=np.float32)
        least = bisect_right(self._starts, begin.min()) - 1  # the samples' documents are in [least, most)
        most = bisect_left(self._starts, (begin + length).max())
        starts = self._starts[least:most]
        first = np.searchsorted(starts, begin, side="right") - 1
        number = np.searchsorted(starts, begin + length, side="left") - first  # documents of each sample
        sample = np.repeat(np.arange(len(number)), number)
        document = np.arange(len(sample)) - np.repeat(np.cumsum(number) - number, number) + np.repeat(first, number)
        ends = np.append(starts[1:], self._starts[most] if most < self.documents else self.tokens)
        inside = np.minimum(ends[document], (begin + length)[sample]) - np.maximum(starts[document], begin[sample])
        with np.errstate(invalid="ignore"):
            weighted = np.asarray(values[least:most], dtype=np.float64)[document] * inside
            means = np.bincount(sample, weights=weighted, minlength=len(number)) / length
        return np.where(np.isfinite(means), means, np.nan).astype(np.float32)

    def _windows(self, ids: npt.ArrayLike) -> tuple[IntArray, IntArray, IntArray]:
        """Return each sample's first token position, length in tokens and source, all int64 [n]."""
        wanted = self._checked(ids)
        run = np.searchsorted(self._sample_ends, wanted, side="right")
        ends = self._token_ends[run]
        starts = ends - self._run_tokens[run] + (wanted - self._first_samples[run]) * self.seq_len
        return starts, np.minimum(ends - starts, self.seq_len + 1), self._run_source[run]

    def _check_document(self, index: int) -> None:
        if not 0 <= index < self.documents:
            raise ValueError(f"document {index} is not in [0, {self.documents}): {self._place()}")


def _id_files(folder: Path, slice_name: str, manifest: Manifest, blocks: Blocks) -> list[NumberFile]:
    """Return the files with a slice's ids: one in the artifact, or those listed by the sources."""
    table = manifest.facts["slices"][slice_name]["sources"]
    if not any("files" in row for row in table):
        dtype, count = DTYPES[manifest.facts["dtype"]], sum(int(row["tokens"]) for row in table)
        return [number_file(folder, part_name(slice_name, "ids"), manifest, dtype, count, blocks)]
    files = []
    for row in (row for source in table for row in source["files"]):
        dtype, outside = FOREIGN_DTYPES[row["dtype"]], manifest.outside[row["name"]]
        if outside.bytes != int(row["tokens"]) * np.dtype(dtype).itemsize:
            raise ArtifactError(
                f"{outside.path} has {outside.bytes} bytes, but {row['tokens']} tokens of type {row['dtype']} were "
                f"expected: remove {folder} and run pdpc adopt again"
            )
        digests = blocks.of(row["name"], outside.bytes)
        files.append(NumberFile(Path(outside.path), dtype, int(row["tokens"]), digests=digests))
    return files


def _fingerprint(manifest: Manifest, slice_name: str) -> str:
    """Identity of this slice's samples: its bytes, how they are split, and the tokenizer that encoded them."""
    facts = manifest.facts
    sources = facts["slices"][slice_name]["sources"]
    checksums = {part_name(slice_name, part): part for part in PARTS}
    value = {
        "slice": slice_name,
        "seq_len": facts["seq_len"],
        "end_of_text": facts["end_of_text"],
        "tokenizer": facts["tokenizer_fingerprint"],
        "sources": sources,
        "files": {part: manifest.files[name].xxh3_128 for name, part in checksums.items() if name in manifest.files},
    }
    outside = [manifest.outside[file["name"]].xxh3_128 for row in sources for file in row.get("files", [])]
    return fingerprint_of({**value, "outside": outside} if outside else value)
