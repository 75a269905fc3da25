"""Answers: the result of every benchmark question and every held-out sample at a stage end, per item.

Arms that were evaluated on the same items are compared pairwise (train/report), which detects small gains far better
than two means with standard errors. Stored in `RUN/evaluations/step_XXXXXXXX.parquet`, one row per item.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum.artifact.files import reading, replacing
from train.records.layout import EVALUATIONS

MOST_ROWS = 1 << 26
"""Items of all measures of a stage."""
UNKNOWN = -1
"""Group of an item whose group was not stored; groups are numbers of items, so at least 0."""

OTHER_TASK_FILES = "stage/task_files"
"""Key of a stage record that was evaluated again with other task files than the run began with: their fingerprint."""


@dataclass(frozen=True)
class Items:
    """The items of one measure; the measure is their weighted mean, sum(weight * value) / sum(weight)."""

    ids: NDArray[np.int64]
    """[n] index of the question in its task, or of the document in the validation slice; increasing."""
    values: NDArray[np.float64]
    """[n] result of the item: 1 or 0, or nats per token."""
    weights: NDArray[np.float64]
    """[n] 1, or the number of the document's labels that were evaluated."""
    groups: NDArray[np.int64] | None = None
    """[n] items of the same group are not independent of each other: questions about one passage. A document is its own
    group. None: unknown, in answers of an earlier version."""

    def mean(self) -> float:
        """Return the measure."""
        return float((self.values * self.weights).sum() / self.weights.sum())


@dataclass
class Evaluated:
    """The results of an evaluation, or of a part of one."""

    values: dict[str, float | str] = field(default_factory=dict)
    """Measures and error messages, with the keys of metrics.jsonl."""
    answers: dict[str, Items] = field(default_factory=dict)
    """Items of those measures that are means over items."""
    failed: list[str] = field(default_factory=list)
    """Names of the parts that failed: tasks, or `heldout`."""

    def add(self, other: Evaluated) -> None:
        """Merge the results of another part."""
        self.values |= other.values
        self.answers |= other.answers
        self.failed += other.failed


def answers_path(run: Path, step: int) -> Path:
    """Return the path of the answers of a step in a RUN folder."""
    return run / EVALUATIONS / f"step_{step:08d}.parquet"


def write_answers(path: Path, answers: Mapping[str, Items]) -> None:
    """Write the items of every measure atomically; keys as in metrics.jsonl (`val/loss`, `bench/<task>/acc`).

    The column `group` is null where the groups are unknown.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [np.repeat(np.asarray([key], dtype=object), len(items.ids)) for key, items in answers.items()]
    columns = {
        "measure": pa.array(np.concatenate(names) if names else [], pa.string()).dictionary_encode(),
        "item": pa.array(_joined([items.ids for items in answers.values()], np.int64)),
        "value": pa.array(_joined([items.values for items in answers.values()], np.float64)),
        "weight": pa.array(_joined([items.weights for items in answers.values()], np.float64)),
        "group": pa.concat_arrays([pa.array([], pa.int64()), *map(_groups, answers.values())]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        pq.write_table(pa.table(columns), file, compression="zstd")


def read_answers(path: Path) -> dict[str, Items]:
    """Return the items by measure; {} if there is no such file. Raises ValueError naming a broken file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        return {}
    with reading(path, "evaluate the stage again (pdpc evaluate)"):
        if (count := pq.read_metadata(path).num_rows) > MOST_ROWS:
            raise ValueError(f"{path} has {count:,} rows, more than the {MOST_ROWS:,} that it may have: restore it")
        table = pq.read_table(path, read_dictionary=["measure"]).combine_chunks()
        if "group" not in table.column_names:  # answers of an earlier version
            table = table.append_column("group", pa.nulls(len(table), pa.int64()))
        names = table["measure"].combine_chunks()  # as a dictionary: a name takes memory once, not once per item
        if not len(names):
            return {}
        numbers = names.indices.to_numpy()
        rows = np.argsort(numbers, kind="stable")
        ends = np.cumsum(np.bincount(numbers, minlength=len(names.dictionary)))[:-1]
        columns = [np.split(table[name].to_numpy()[rows], ends) for name in ("item", "value", "weight")]
        groups = np.split(table["group"].fill_null(UNKNOWN).to_numpy()[rows], ends)
        known = [None if (part == UNKNOWN).any() else part for part in groups]
        return {key: Items(*parts) for key, *parts in zip(names.dictionary.to_pylist(), *columns, known, strict=True)}


def _groups(items: Items) -> Any:
    import pyarrow as pa

    return pa.nulls(len(items.ids), pa.int64()) if items.groups is None else pa.array(items.groups, pa.int64())


def _joined(parts: list[NDArray[np.generic]], dtype: type) -> NDArray[np.generic]:
    return np.concatenate(parts).astype(dtype) if parts else np.empty(0, dtype)
