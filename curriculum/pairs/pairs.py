"""PAIRS: prompts, each with a chosen answer and one or more rejected ones, as token ids on disk.

Layout of a slice (`train`, `validation`), all numbers little-endian; pairs are stored source by source (sorted by name)
and in the order of the input within a source:

    <slice>.ids.bin        uint16 or uint32 [tokens]: of every pair its prompt, then its answers, the chosen one first
    <slice>.prompts.bin    int32 [pairs]: tokens of the prompt, at least 1
    <slice>.counts.bin     int32 [pairs]: answers, at least 2
    <slice>.answers.bin    int32 [answers]: tokens of the answer, at least 1
    <slice>.origins.bin    int64 [pairs]: the record's ordinal in the input
    <slice>.rewards.bin    float32 [answers], finite: the answer's explicit reward; only if the facts say `rewards`
    <slice>.positions.bin  int32 [tokens], aligned with the ids: the token's position; only if the facts say `positions`

A sample, what an ORDER arranges, is one pair: sample i of the slice is pair i. It is read as sequences (prompt +
answer), each of at most seq_len + 1 tokens. The labels are the tokens of the answers and nothing else; the first of
them is predicted from the prompt's last token. A prompt starts as in TOKENS: with BOS if the facts name one, and
without the end-of-text that separates documents (which stands in for an empty prompt). An answer may end with
end-of-text, and a chat template may put it anywhere: attention restarts nowhere inside a sequence. Positions increase
within a sequence, and the k-th tokens of all answers of a pair have the same position. blocks.bin holds a checksum for
every 256 KiB of each file (curriculum/artifact/blocks.py).

Log-probabilities of the answers are stored elsewhere, in SCORES of these PAIRS, bound by their fingerprint
(curriculum/pairs/answers.py). Opening reads the index (prompts, counts, answers); ids are memory-mapped.

Shapes: N pairs, K sequences (the answers of the N pairs, in order), S tokens of the longest one, T = S - 1 labels.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from curriculum.artifact.blocks import BlockArray, Blocks
from curriculum.artifact.files import ArtifactError, fingerprint_of, reading
from curriculum.artifact.manifest import MANIFEST, Manifest, kind_of, open_manifest
from curriculum.tokens.ids import IntArray, NumberFile, TokenIds
from curriculum.tokens.samples import Samples, number_file
from curriculum.tokens.tokens import DTYPES, IGNORED, Tokens

KIND = "pairs"
TRAIN, VALIDATION = "train", "validation"
SLICES = (TRAIN, VALIDATION)
INDEX = {"prompts": "<i4", "counts": "<i4", "answers": "<i4", "origins": "<i8"}
REWARDS, POSITIONS = "rewards", "positions"
OPTIONAL = {REWARDS: "<f4", POSITIONS: "<i4"}

FloatArray = npt.NDArray[np.float32]


class Sequences(NamedTuple):
    """The sequences of some pairs: of every pair the chosen one, then the rejected ones."""

    ids_KS: IntArray
    """Prompt + answer; IGNORED after the end."""
    prompt_K: IntArray
    """Tokens of the prompt, the same for all sequences of a pair."""
    answer_K: IntArray
    """Tokens of the answer."""
    rows_N1: IntArray
    """First sequence of every pair, its chosen one, and at the end K."""
    positions_KS: IntArray | None
    """Position of every token, 0 after the end; None: 0, 1, 2, ..."""

    @property
    def labels_KT(self) -> IntArray:
        """Return `ids_KS[:, 1:]` with IGNORED in place of all but the answers' tokens."""
        place_T = np.arange(1, self.ids_KS.shape[1])
        inside_KT = (place_T >= self.prompt_K[:, None]) & (place_T < (self.prompt_K + self.answer_K)[:, None])
        return np.where(inside_KT, self.ids_KS[:, 1:], IGNORED)


def part_name(slice_name: str, part: str) -> str:
    """Return the file name of one part of a slice."""
    return f"{slice_name}.{part}.bin"


class Pairs(Samples):
    """One slice of a PAIRS artifact. Create it with `Pairs.open`."""

    def __init__(self, folder: Path, slice_name: str, manifest: Manifest) -> None:
        super().__init__(folder, slice_name, manifest)
        facts, table = manifest.facts, manifest.facts["slices"][slice_name]
        self.pairs, self.answers, self.tokens = (int(table[key]) for key in ("pairs", "answers", "labels"))
        """Pairs, their answers, and the answers' tokens: the labels."""
        stored = int(table["tokens"])
        self.documents = self.pairs
        self.chat: bool = facts["chat"]
        """Whether the records are chat messages, written through the tokenizer's chat template."""
        self.has_rewards, self.has_positions = (bool(facts[part]) for part in OPTIONAL)
        self._source_ends = np.cumsum([int(row["pairs"]) for row in table["sources"]], dtype=np.int64)
        blocks = Blocks(folder, manifest)
        counts = {"answers": self.answers, REWARDS: self.answers, POSITIONS: stored}

        def file(part: str, dtype: str) -> NumberFile:
            return number_file(
                folder, part_name(slice_name, part), manifest, dtype, counts.get(part, self.pairs), blocks
            )

        self._files = {part: file(part, dtype) for part, dtype in INDEX.items()}
        self._files |= {part: file(part, dtype) for part, dtype in OPTIONAL.items() if facts[part]}
        counts["ids"] = stored
        self._ids = TokenIds([file("ids", DTYPES[facts["dtype"]])], 1)
        self._positions = TokenIds([self._files[POSITIONS]], 1) if self.has_positions else None
        self._prompt_N, self._answer_A = (self._whole(part).astype(np.int64) for part in ("prompts", "answers"))
        self._first_N1 = _starts(self._whole("counts"))
        """First answer of every pair, then the number of answers."""
        labels_A1 = _starts(self._answer_A)
        self._label_N = np.diff(labels_A1[self._first_N1])
        self._start_N1 = _starts(self._prompt_N + self._label_N)
        if len(self._answer_A) != self._first_N1[-1] or self._start_N1[-1] != stored:
            raise ArtifactError(f"the index of {self._place()} does not fit its ids: remove {folder} and prepare again")
        self.fingerprint: str = _fingerprint(manifest, slice_name)

    @classmethod
    def open(cls, folder: str | Path, slice: str = TRAIN) -> Pairs:
        """Open one slice of a PAIRS folder; reads its index.

        Raises ValueError for an unknown slice, ArtifactError if the folder is missing, truncated or not PAIRS.
        """
        if slice not in SLICES:
            raise ValueError(f"slice={slice!r} is unknown: PAIRS have {' and '.join(SLICES)}")
        folder = Path(folder)
        manifest = open_manifest(folder, KIND)
        with reading(folder / MANIFEST, f"it lacks fields of PAIRS; remove {folder} and prepare again"):
            return cls(folder, slice, manifest)

    def __len__(self) -> int:
        return self.pairs

    def sequences(self, ids: npt.ArrayLike, width: int | None = None) -> Sequences:
        """Return the sequences of pairs, padded to the longest of them, or to `width` tokens.

        ids: int [N], each in [0, len(self)). Raises ValueError for anything else, or for a sequence longer than
        `width`. O(tokens of the pairs).
        """
        pairs_N = self._checked(ids)
        rows_N1 = _starts(self._first_N1[pairs_N + 1] - self._first_N1[pairs_N])
        answer_K = self._answer_A[self.answer_rows(pairs_N)]
        prompt_K = np.repeat(self._prompt_N[pairs_N], np.diff(rows_N1))
        longest = int((prompt_K + answer_K).max(initial=0))
        if width is not None and longest > width:
            raise ValueError(f"a sequence of {self._place()} has {longest} tokens, more than {width}")
        shape = len(answer_K), longest if width is None else width
        ids_KS = np.full(shape, IGNORED, dtype=np.int64)
        positions_KS = np.zeros(shape, dtype=np.int64) if self._positions is not None else None
        for number, pair in enumerate(pairs_N.tolist()):
            rows = range(int(rows_N1[number]), int(rows_N1[number + 1]))
            self._fill(ids_KS, self._ids, pair, rows, answer_K)
            if positions_KS is not None and self._positions is not None:
                self._fill(positions_KS, self._positions, pair, rows, answer_K)
        return Sequences(ids_KS, prompt_K, answer_K, rows_N1, positions_KS)

    def prompt(self, pair: int) -> IntArray:
        """Return the token ids of a pair's prompt, int64 [tokens]."""
        (index,) = self._checked([pair])
        start = int(self._start_N1[index])
        return self._ids.span(start, start + int(self._prompt_N[index]))

    def rewards(self, ids: npt.ArrayLike) -> FloatArray:
        """Return the explicit reward of every answer of pairs, float32 [K], in the order of `sequences`.

        Raises ValueError if these PAIRS have none.
        """
        if not self.has_rewards:
            raise ValueError(
                f"{self.folder} has no rewards: prepare it with input.chosen_reward_column and "
                "input.rejected_reward_column, or give pdpc pairs score a reward model"
            )
        rewards: FloatArray = self._reward_A[self.answer_rows(ids)]
        return rewards

    def answer_rows(self, ids: npt.ArrayLike) -> IntArray:
        """Return the numbers of the answers of pairs among all answers of the slice, int64 [K]."""
        pairs_N = self._checked(ids)
        count_N = self._first_N1[pairs_N + 1] - self._first_N1[pairs_N]
        rows_N1 = _starts(count_N)
        return np.repeat(self._first_N1[pairs_N] - rows_N1[:-1], count_N) + np.arange(rows_N1[-1])

    def answer_counts(self, ids: npt.ArrayLike) -> IntArray:
        """Return the number of answers of pairs, int64 [N]."""
        pairs_N = self._checked(ids)
        return self._first_N1[pairs_N + 1] - self._first_N1[pairs_N]

    def answer_tokens(self, ids: npt.ArrayLike) -> IntArray:
        """Return the tokens of every answer of pairs, int64 [K]."""
        return self._answer_A[self.answer_rows(ids)]

    def real_tokens(self, ids: npt.ArrayLike, first: int | None = None) -> IntArray:
        """Return the labels of pairs, int64 [N]: the tokens of all answers, or of each the first `first`."""
        pairs_N = self._checked(ids)
        if first is None:
            return self._label_N[pairs_N]
        cut_K = np.minimum(self._answer_A[self.answer_rows(pairs_N)], first)
        return np.diff(_starts(cut_K)[_starts(self.answer_counts(ids))])

    @property
    def maybe_short(self) -> IntArray:
        """Return the ids of samples whose labels are not `seq_len`: all."""
        return np.arange(self.pairs)

    def source_of(self, ids: npt.ArrayLike) -> IntArray:
        """Return each pair's index into `self.sources`, int64 [N]."""
        return np.searchsorted(self._source_ends, self._checked(ids), side="right").astype(np.int64)

    def samples_of(self, source: int) -> range:
        """Return the pairs of one source, given by its index into `self.sources`; empty if it has none."""
        if not 0 <= source < len(self.sources):
            raise ValueError(f"source index {source} is not in [0, {len(self.sources)}): {self._place()}")
        return range(int(self._source_ends[source - 1]) if source else 0, int(self._source_ends[source]))

    def origin(self, index: int) -> int:
        """Return a pair's ordinal in the input."""
        (pair,) = self._checked([index])
        return int(self.origins[pair])

    @cached_property
    def origins(self) -> IntArray:
        """Return the ordinal in the input of every pair of this slice, int64 [pairs]."""
        return self._whole("origins").astype(np.int64)

    def document_means(self, values: npt.NDArray[np.float32], ids: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return the values of pairs, float32 [N]: the document of a sample is the pair itself."""
        return values[self._checked(ids)]

    def recheck(self) -> None:
        """Raise UnreadableError unless all pairs that were read before this call were intact."""
        self._ids.recheck()
        if self._positions is not None:
            self._positions.recheck()

    @cached_property
    def _reward_A(self) -> FloatArray:
        return self._whole(REWARDS)

    def _fill(self, out_KS: IntArray, stored: TokenIds, pair: int, rows: range, answer_K: IntArray) -> None:
        """Write what is stored for a pair's tokens into its rows."""
        values = stored.span(int(self._start_N1[pair]), int(self._start_N1[pair + 1]))
        at = prompt = int(self._prompt_N[pair])
        for row in rows:
            length = int(answer_K[row])
            out_KS[row, :prompt] = values[:prompt]
            out_KS[row, prompt : prompt + length] = values[at : at + length]
            at += length

    def _whole(self, part: str) -> npt.NDArray[Any]:
        file = self._files[part]
        return BlockArray(file.path, file.dtype, file.count, file.digests)[:]


def open_samples(folder: str | Path, slice: str = TRAIN) -> Samples:
    """Open one slice of TOKENS or of PAIRS, whichever the folder holds. Raises as their `open` does."""
    folder = Path(folder)
    if (folder / MANIFEST).is_file() and kind_of(folder) == KIND:
        return Pairs.open(folder, slice)
    return Tokens.open(folder, slice)


def _starts(lengths: npt.ArrayLike) -> IntArray:
    """Return the start of every part of the given length, and the end of the last, int64 [n + 1]."""
    return np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)))


def _fingerprint(manifest: Manifest, slice_name: str) -> str:
    """Identity of this slice's pairs: its files, the longest sequence, and the tokenizer that encoded them."""
    facts = manifest.facts
    prefix = f"{slice_name}."
    return fingerprint_of(
        {
            "kind": KIND,
            "slice": slice_name,
            "seq_len": facts["seq_len"],
            "end_of_text": facts["end_of_text"],
            "tokenizer": facts["tokenizer_fingerprint"],
            "sources": facts["slices"][slice_name]["sources"],
            "files": {
                name.removeprefix(prefix): entry.xxh3_128
                for name, entry in manifest.files.items()
                if name.startswith(prefix)
            },
        }
    )
