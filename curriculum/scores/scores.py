"""SCORES: one row per sample, one float32 loss column per reference model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curriculum.artifact.files import ArtifactError, reading
from curriculum.artifact.guard import WholeFile
from curriculum.artifact.manifest import Manifest, open_manifest
from curriculum.artifact.parquet import open_parquet
from curriculum.scores.derived import Found, derived_from
from curriculum.tokens.samples import Samples

KIND = "scores"
COUNTS = ("tokens", "bytes")
"""Integer columns that are not scores."""
BATCH_ROWS = 1 << 20
"""Rows read at a time."""


class Scores:
    """One slice of an open SCORES folder. `column(name)` is float32 [n], one value per sample."""

    def __init__(self, folder: Path, slice: str, manifest: Manifest) -> None:
        self.folder = folder
        self.slice = slice
        self.manifest = manifest
        self.fingerprint = manifest.fingerprint
        path = folder / f"{slice}.parquet"
        self._whole = WholeFile(path, manifest.files[path.name])
        with reading(path, f"remove {folder} and score again"):
            self._file = open_parquet(path)

    @classmethod
    def open(cls, folder: str | Path, slice: str = "train") -> Scores:
        """Open one slice of a SCORES folder. Raises ArtifactError with what is wrong with it."""
        folder = Path(folder)
        manifest = open_manifest(folder, KIND)
        if f"{slice}.parquet" not in manifest.files:
            raise ArtifactError(
                f"{folder} has no scores of slice {slice!r}, only {sorted(manifest.files)}: score that slice"
            )
        return cls(folder, slice, manifest)

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    @property
    def models(self) -> list[str]:
        """Names of the reference models."""
        return [name.removeprefix("loss_") for name in self._file.schema_arrow.names if name.startswith("loss_")]

    @property
    def names(self) -> list[str]:
        """Names that `column` and `chunks` accept: the stored losses and the scores derived from them."""
        there = self._file.schema_arrow.names
        return [*(name for name in there if name not in ("sample", *COUNTS)), *derived_from(there, self.models)]

    def column(self, name: str) -> NDArray[np.float32]:
        """Return a stored column or one of `DERIVED`, [n]: perplexities, bits per byte, PD.

        Raises ValueError with the available columns.
        """
        if name in COUNTS and name in self._file.schema_arrow.names:
            self._whole.begin()
            column = np.asarray(self._file.read([name]).column(name).to_numpy(), dtype=np.float32)
            self._whole.check()
            return column
        return np.concatenate([chunk[name] for chunk in self.chunks([name])] or [np.zeros(0, np.float32)])

    def chunks(self, names: Sequence[str]) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Yield the columns `names` in pieces of arbitrary length, in sample order.

        Raises UnreadableError after the last one unless the file was intact all the time.
        """
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise ValueError(
                f"{self.folder} has no score {unknown[0]!r}, only {self.names}: name one of those, or score with "
                "the model it needs"
            )
        there = self._file.schema_arrow.names
        found = derived_from(there, self.models) | {name: Found((name,), lambda column: column) for name in there}
        needed = sorted({column for name in names for column in found[name].needs})
        batches = self._file.iter_batches(batch_size=BATCH_ROWS, columns=needed)
        self._whole.begin()
        while True:
            with reading(self.folder / f"{self.slice}.parquet", "score again"):
                batch = next(batches, None)
                if batch is None:
                    break
                stored = {name: np.asarray(batch.column(name).to_numpy(zero_copy_only=False)) for name in needed}
                with np.errstate(over="ignore"):
                    chunk = {name: found[name].of(*(stored[column] for column in found[name].needs)) for name in names}
            yield chunk
        self._whole.check()

    def recheck(self) -> None:
        """Raise UnreadableError unless all that was read before this call was intact."""
        self._whole.check()

    def check(self, tokens: Samples) -> None:
        """Raise ArtifactError unless these are the scores of `tokens`."""
        theirs = self.manifest.inputs.get(f"tokens/{self.slice}")
        if theirs != tokens.fingerprint or len(self) != len(tokens):
            raise ArtifactError(
                f"{self.folder} scores other tokens ({theirs}, {len(self)} samples) than {tokens.folder} "
                f"slice {self.slice!r} ({tokens.fingerprint}, {len(tokens)} samples): run pdpc score on these tokens"
            )
