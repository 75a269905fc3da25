"""SCORES: one row a sample, one float32 loss column a reference model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curriculum.artifact import ArtifactError, Manifest, open_manifest
from curriculum.tokens import Tokens

KIND = "scores"


class Scores:
    """An open SCORES folder, one slice of it. `column(name)` is float32 [n], one value a sample."""

    def __init__(self, folder: Path, slice: str, manifest: Manifest) -> None:
        self.folder = folder
        self.slice = slice
        self.manifest = manifest
        self.fingerprint = manifest.fingerprint
        self._file = pq.ParquetFile(folder / f"{slice}.parquet", memory_map=True)

    @classmethod
    def open(cls, folder: str | Path, slice: str = "train") -> Scores:
        """Open one slice of a SCORES folder. Raises ArtifactError naming what is wrong with it."""
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

    def column(self, name: str) -> NDArray[np.float32]:
        """Return a stored column, `ppl_<model>` = exp(loss), or `pd` of the weak and the strong model.

        PD = (PPL_weak - PPL_strong) / PPL_weak = 1 - exp(loss_strong - loss_weak) (arXiv 2501.13126), from the losses
        so that nothing overflows. Raises ValueError naming the columns that are there.
        """
        stored = self._file.schema_arrow.names
        if name in stored:
            values: NDArray[np.float32] = self._file.read([name]).column(name).to_numpy()
            return values
        if name.startswith("ppl_") and f"loss_{name[4:]}" in stored:
            return np.exp(self.column(f"loss_{name[4:]}")).astype(np.float32)
        if name == "pd" and {"loss_weak", "loss_strong"} <= set(stored):
            pd: NDArray[np.float32] = -np.expm1(self.column("loss_strong") - self.column("loss_weak"))
            return pd.astype(np.float32)
        raise ValueError(
            f"{self.folder} has no score {name!r}, only {stored} and what follows from them (ppl_*, pd): "
            "name one of those"
        )

    def check(self, tokens: Tokens) -> None:
        """Raise ArtifactError unless these are the scores of `tokens`."""
        theirs = self.manifest.inputs.get(f"tokens/{self.slice}")
        if theirs != tokens.fingerprint or len(self) != len(tokens):
            raise ArtifactError(
                f"{self.folder} scores other tokens ({theirs}, {len(self)} samples) than {tokens.folder} "
                f"slice {self.slice!r} ({tokens.fingerprint}, {len(tokens)} samples): run pdpc score on these tokens"
            )


def write_slice(
    folder: Path, slice: str, losses: Mapping[str, NDArray[np.float32]], tokens_N: NDArray[np.int64]
) -> None:
    """Write `<slice>.parquet`: the sample id, its real tokens and one loss column a model.

    Raises ValueError naming model and sample when a loss is not finite.
    """
    for name, loss_N in losses.items():
        bad = np.flatnonzero(~np.isfinite(loss_N))
        if len(bad):
            raise ValueError(
                f"model {name!r} gives sample {bad[0]} of slice {slice!r} a loss of {loss_N[bad[0]]} "
                f"({len(bad)} such samples): its weights are not sound; train or choose another reference model"
            )
    columns = {
        "sample": pa.array(np.arange(len(tokens_N), dtype=np.int64)),
        "tokens": pa.array(tokens_N.astype(np.int32)),
    }
    columns |= {f"loss_{name}": pa.array(loss_N.astype(np.float32)) for name, loss_N in losses.items()}
    pq.write_table(pa.table(columns), folder / f"{slice}.parquet", compression="zstd")
