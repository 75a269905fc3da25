"""How PDPC arranges, for the benchmarks: they arrange only through these functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curriculum.arrange.arrange import ArrangeSettings, run
from curriculum.arrange.arrangement import Arrangement
from curriculum.arrange.cells import Layout
from curriculum.arrange.interleave import id_dtype
from curriculum.order.permutation import key_of
from curriculum.preference import Pdpc, Preference, Shuffled, Sorted, Tilt
from curriculum.scores.columns import SampleColumns
from curriculum.scores.own import BATCH_ROWS, OwnScores

PREFERENCES: dict[str, Preference] = {
    "shuffled": Shuffled(),
    "pdpc": Pdpc(score="score", stratify_by=None),
    "tilt": Tilt(score="score"),
    "sorted": Sorted(score="score"),
}
"""Preferences for the benchmarks; none is stratified, because the scores come without sources."""


def load() -> None:
    """Load the compiled loops before timing starts, as the peers do on import."""
    arrange_in_memory(np.arange(1000, dtype=np.float32), "pdpc", 8, 0)


def arrange_scores(*, scores: Path, preference: str, batch_size: int, seed: int, output: Path) -> None:
    """Write the ORDER for the scores in a Parquet file (`score` float32, optionally `sample` int64) to `output`."""
    run(
        ArrangeSettings(
            own_scores=str(scores),
            preference=PREFERENCES[preference],
            batch_size=batch_size,
            stages=1,
            seed=seed,
            output=str(output),
        )
    )


def arrange_in_memory(score_N: NDArray[np.float32], preference: str, batch_size: int, seed: int) -> NDArray[np.uint32]:
    """Return the sample ids in training order, [N], without touching the disk."""
    columns = SampleColumns(None, None, HeldScores(score_N))
    layout = Layout(PREFERENCES[preference], columns, fold_key=key_of(seed, "fold"), keep_unscored=False, workers=None)
    with Arrangement(layout, batch_size, seed, None) as arrangement:
        ids_N = np.empty(arrangement.total, dtype=id_dtype(columns.samples))
        for _ in arrangement.pieces(into=ids_N):
            pass
    return ids_N.astype(np.uint32, copy=False)


class HeldScores(OwnScores):
    """One column `score` [N] in memory: row i is sample i."""

    def __init__(self, score_N: NDArray[np.float32]) -> None:
        self.path = Path("in memory")
        self._table = pa.table({"score": score_N})
        self.rows, self.names, self.by, self.has_sources = self._table.num_rows, ["score"], None, False

    def recheck(self) -> None:
        """Nothing is on disk."""

    def _batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        yield from self._table.select(list(names)).to_batches(max_chunksize=BATCH_ROWS)
