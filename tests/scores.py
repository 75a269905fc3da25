"""SCORES with made-up losses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray


def write_slice(
    folder: Path, slice: str, losses: Mapping[str, NDArray[np.float32]], tokens_N: NDArray[np.integer[Any]]
) -> None:
    """Write `<slice>.parquet` with losses by model and the real tokens of each sample, without a bytes column."""
    columns = {"sample": np.arange(len(tokens_N)), "tokens": tokens_N.astype(np.int32)}
    columns |= {f"loss_{name}": loss_N.astype(np.float32) for name, loss_N in losses.items()}
    pq.write_table(pa.table(columns), folder / f"{slice}.parquet")
