"""The one place that knows how PDPC arranges: the benchmarks call these two functions and nothing beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curriculum.arrange.arrange import ArrangeSettings, arranged_ids, run
from curriculum.preference import Pdpc, Preference, Shuffled, Sorted, Tilt

PREFERENCES: dict[str, Preference] = {
    "shuffled": Shuffled(),
    "pdpc": Pdpc(score="score", stratify_by=None),
    "tilt": Tilt(score="score"),
    "sorted": Sorted(score="score"),
}
"""What the benchmarks may ask for; scores alone know no sources, so that nothing is stratified."""


def load() -> None:
    """Load the compiled loops, as a peer's import loads its own, before a clock starts."""
    arranged_ids({"score": np.arange(1000, dtype=np.float32)}, PREFERENCES["pdpc"], 8)


def arrange_scores(*, scores: Path, preference: str, batch_size: int, seed: int, output: Path) -> None:
    """Write the ORDER of the scores of a Parquet file (`score` float32, `sample` int64 or none) into `output`."""
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
    """Return the sample ids of scores in training order, [N], without touching the disk."""
    ids_N = arranged_ids({"score": score_N}, PREFERENCES[preference], batch_size, seed=seed)
    return ids_N.astype(np.uint32, copy=False)
