"""SCORES with made-up losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curriculum.artifact.create import create
from curriculum.tokens.tokens import Tokens

Losses = Mapping[str, NDArray[Any]]
"""Losses of every sample of a slice, by model."""


def write_scores(folder: Path, parts: Sequence[Tokens], losses_of: Callable[[Tokens], Losses], **facts: Any) -> Path:
    """Write SCORES of slices, with further facts in the manifest; return the folder."""
    inputs = {f"tokens/{part.slice}": part.fingerprint for part in parts}
    with create(folder, "scores", config={}, inputs=inputs) as draft:
        for part in parts:
            write_slice(draft.path, part.slice, losses_of(part), part.real_tokens(np.arange(len(part))))
        draft.facts.update(facts)
    return folder


def write_slice(folder: Path, slice: str, losses: Losses, tokens_N: NDArray[np.integer[Any]]) -> None:
    """Write `<slice>.parquet` with losses by model and the real tokens of each sample, without a bytes column."""
    columns = {"sample": np.arange(len(tokens_N)), "tokens": tokens_N.astype(np.int32)}
    columns |= {f"loss_{name}": loss_N.astype(np.float32) for name, loss_N in losses.items()}
    pq.write_table(pa.table(columns), folder / f"{slice}.parquet")
