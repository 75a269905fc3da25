"""SCORES: one row a sample, one float32 loss column a reference model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curriculum.artifact import ArtifactError, Manifest, open_manifest
from curriculum.parquet import open_parquet
from curriculum.tokens import Tokens

KIND = "scores"
BATCH_ROWS = 1 << 20
"""Rows read at once."""


class Scores:
    """An open SCORES folder, one slice of it. `column(name)` is float32 [n], one value a sample."""

    def __init__(self, folder: Path, slice: str, manifest: Manifest) -> None:
        self.folder = folder
        self.slice = slice
        self.manifest = manifest
        self.fingerprint = manifest.fingerprint
        self._file = open_parquet(folder / f"{slice}.parquet")

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

    @property
    def names(self) -> list[str]:
        """Names that `column` and `chunks` know: the stored losses and what follows from them."""
        stored = [name for name in self._file.schema_arrow.names if name not in ("sample", "tokens")]
        pd = ["pd"] if {"loss_weak", "loss_strong"} <= set(stored) else []
        return [*stored, *(f"ppl_{model}" for model in self.models), *pd]

    def column(self, name: str) -> NDArray[np.float32]:
        """Return a stored column, `ppl_<model>` = exp(loss), or `pd` of the weak and the strong model, [n].

        PD = (PPL_weak - PPL_strong) / PPL_weak = 1 - exp(loss_strong - loss_weak) (arXiv 2501.13126), from the losses
        so that nothing overflows. Raises ValueError naming the columns that are there.
        """
        if name == "tokens":
            return np.asarray(self._file.read([name]).column(name).to_numpy(), dtype=np.float32)
        return np.concatenate([chunk[name] for chunk in self.chunks([name])] or [np.zeros(0, np.float32)])

    def chunks(self, names: Sequence[str]) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Yield the columns `names` in pieces of no particular length, in the order of the samples."""
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise ValueError(
                f"{self.folder} has no score {unknown[0]!r}, only {self.names}: name one of those, or score with "
                "the model that it needs"
            )
        needed = sorted({stored for name in names for stored in _needs(name, self._file.schema_arrow.names)})
        for batch in self._file.iter_batches(batch_size=BATCH_ROWS, columns=needed):
            losses = {name: np.asarray(batch.column(name).to_numpy(zero_copy_only=False)) for name in needed}
            yield {name: _derived(name, losses) for name in names}

    def check(self, tokens: Tokens) -> None:
        """Raise ArtifactError unless these are the scores of `tokens`."""
        theirs = self.manifest.inputs.get(f"tokens/{self.slice}")
        if theirs != tokens.fingerprint or len(self) != len(tokens):
            raise ArtifactError(
                f"{self.folder} scores other tokens ({theirs}, {len(self)} samples) than {tokens.folder} "
                f"slice {self.slice!r} ({tokens.fingerprint}, {len(tokens)} samples): run pdpc score on these tokens"
            )


def _needs(name: str, stored: Sequence[str]) -> tuple[str, ...]:
    if name in stored:
        return (name,)
    return ("loss_weak", "loss_strong") if name == "pd" else (f"loss_{name.removeprefix('ppl_')}",)


def _derived(name: str, losses: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    if name in losses:
        return losses[name]
    with np.errstate(over="ignore"):
        if name == "pd":
            pd: NDArray[np.float32] = -np.expm1(losses["loss_strong"] - losses["loss_weak"])
            return pd
        ppl: NDArray[np.float32] = np.exp(losses[f"loss_{name.removeprefix('ppl_')}"])
        return ppl


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
