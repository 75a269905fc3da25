"""What TOKENS and PAIRS have in common: numbered samples by source, encoded by one tokenizer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curriculum.artifact.blocks import Blocks
from curriculum.artifact.files import ArtifactError
from curriculum.artifact.manifest import Manifest
from curriculum.tokens.ids import IntArray, NumberFile
from curriculum.tokens.tokenizer import TOKENIZER_FILE, TextTokenizer, tokenizer_fingerprint


class Samples(ABC):
    """One slice of an artifact whose samples an ORDER can arrange. It pickles as its path."""

    fingerprint: str
    """Identity of the slice's samples."""
    tokens: int
    """Tokens of the slice that samples are counted by."""

    def __init__(self, folder: Path, slice_name: str, manifest: Manifest) -> None:
        facts = manifest.facts
        self.folder = folder
        self.slice = slice_name
        self.seq_len: int = int(facts["seq_len"])
        """Labels of the longest sequence; a sequence has at most one token more."""
        self.vocab_size: int = int(facts["vocab_size"])
        self.end_of_text: int = int(facts["end_of_text"])
        self.bos: int | None = facts.get("bos")
        """Token that starts each document's text, and every prompt; None: none does (curriculum/tokens/special.py)."""
        self.input_only: int | None = facts.get("input_only")
        """Token that is never a label: BOS, unless it is end-of-text; None: no such token."""
        self.tokenizer_fingerprint: str = facts["tokenizer_fingerprint"]
        self.tokenizer_folder: Path = folder / "tokenizer"
        self.sources: list[str] = [row["name"] for row in facts["slices"][slice_name]["sources"]]

    def check_tokenizer(self) -> None:
        """Raise ArtifactError unless the tokenizer in the folder is the one that encoded these tokens.

        Called wherever ids are decoded or text is encoded. TOKENS without a tokenizer.json pass.
        """
        path = self.tokenizer_folder / TOKENIZER_FILE
        if not path.is_file():
            return
        found = tokenizer_fingerprint(self.tokenizer_folder)
        if found != self.tokenizer_fingerprint:
            raise ArtifactError(
                f"{path} is not the tokenizer that encoded {self.folder} (fingerprint {found}, expected "
                f"{self.tokenizer_fingerprint}): restore the original, or prepare the text again"
            )

    def is_encoded_by(self, tokenizer: Path) -> bool:
        """Return whether a folder's tokenizer encodes text as these tokens, whatever special tokens it adds.

        False for a folder without a tokenizer.json.
        """
        if not (tokenizer / TOKENIZER_FILE).is_file():
            return False
        if tokenizer_fingerprint(tokenizer) == self.tokenizer_fingerprint:
            return True
        self.check_tokenizer()
        ours = TextTokenizer.open(self.tokenizer_folder)
        try:
            theirs = TextTokenizer.open(tokenizer, ours.end_of_text_token)
        except ValueError:  # the end-of-text token is not in its vocabulary
            return False
        bos = self.bos is not None
        return theirs.following(bos).fingerprint == ours.following(bos).fingerprint

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return type(self).open, (self.folder, self.slice)

    @classmethod
    @abstractmethod
    def open(cls, folder: str | Path, slice: str = "train") -> Samples:
        """Open one slice of an artifact's folder. Raises ValueError for an unknown slice."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def real_tokens(self, ids: npt.ArrayLike, first: int | None = None) -> IntArray:
        """Return the number of labels of each sample, or of its first `first` tokens, int64 [n]."""

    @abstractmethod
    def source_of(self, ids: npt.ArrayLike) -> IntArray:
        """Return each sample's index into `self.sources`, int64 [n]."""

    @abstractmethod
    def samples_of(self, source: int) -> range:
        """Return the sample ids of one source, given by its index into `self.sources`; empty if it has none."""

    @property
    @abstractmethod
    def maybe_short(self) -> IntArray:
        """Return the ids of samples that may have fewer labels than `seq_len`."""

    @property
    @abstractmethod
    def origins(self) -> IntArray:
        """Return the ordinal in the input of every document of this slice, int64 [documents]."""

    @abstractmethod
    def document_means(self, values: npt.NDArray[np.float32], ids: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return the mean of a number per document over each sample's documents, float32 [n]."""

    @abstractmethod
    def recheck(self) -> None:
        """Raise UnreadableError unless all that was read before this call was intact."""

    def _checked(self, ids: npt.ArrayLike) -> IntArray:
        """Return sample ids as an array. Raises ValueError unless each is in [0, len(self))."""
        array = np.asarray(ids)
        if array.size == 0 and array.ndim == 1:
            return np.zeros(0, dtype=np.int64)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise ValueError(f"sample ids must be a 1-D integer array, got {array.dtype} {array.shape}")
        outside = (array < 0) | (array >= len(self))
        if outside.any():
            raise ValueError(
                f"sample id {array[outside][0]} is not in [0, {len(self)}): {self._place()}; "
                "check whether the ids belong to another artifact or slice"
            )
        return array.astype(np.int64)

    def _place(self) -> str:
        return f"slice {self.slice!r} of {self.folder}"


def number_file(folder: Path, name: str, manifest: Manifest, dtype: str, count: int, blocks: Blocks) -> NumberFile:
    """Return one file of a slice. Raises ArtifactError unless its size is that of `count` numbers."""
    entry, size = manifest.files.get(name), np.dtype(dtype).itemsize
    if entry is None or entry.bytes != count * size:
        there = "is not listed in the manifest" if entry is None else f"has {entry.bytes} bytes"
        raise ArtifactError(
            f"{folder / name} {there}, but {count} numbers of {size} bytes were expected: remove {folder} and "
            "prepare again"
        )
    return NumberFile(folder / name, dtype, count, digests=blocks.of(name, entry.bytes))
