"""Statistics of scores by source, from one pass over the file: means, deviations, shares and correlations.

Shapes: N samples, G sources; the last row is the whole slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curriculum.artifact.files import reading
from curriculum.artifact.parquet import open_parquet
from curriculum.tokens.tokens import Tokens

BATCH_ROWS = 1 << 20


@dataclass(frozen=True)
class SourceSums:
    """Statistics of a slice by source; the last row is the whole slice, a source without samples has nan. All are
    float64 [G + 1] except `samples`."""

    sources: list[str]
    samples: NDArray[np.int64]
    loss_mean: dict[str, NDArray[np.float64]]
    loss_deviation: dict[str, NDArray[np.float64]]
    pd_mean: NDArray[np.float64] | None
    """None without a weak and a strong model, as are the following."""
    pd_deviation: NDArray[np.float64] | None
    pd_negative: NDArray[np.float64] | None
    """Share of samples below zero."""
    pd_length: NDArray[np.float64] | None
    """Correlation of PD with the sample's length in bytes of text (in tokens if bytes are unknown)."""


def sum_up(path: Path, tokens: Tokens) -> SourceSums:
    """Return the statistics of `<slice>.parquet`. O(N) time; memory does not grow with N.

    Raises ArtifactError with the file if it cannot be read.
    """
    with reading(path, "score again"), open_parquet(path) as file:
        names = file.schema_arrow.names
        models = [name.removeprefix("loss_") for name in names if name.startswith("loss_")]
        with_pd = {"weak", "strong"} <= set(models)
        groups = len(tokens.sources)
        moments = {name: np.zeros((3, groups)) for name in [*models, *(("pd", "length", "cross") if with_pd else ())]}
        negative = np.zeros(groups)
        columns = [*(f"loss_{model}" for model in models), "bytes" if "bytes" in names else "tokens"]
        start = 0
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
            source_N = tokens.source_of(np.arange(start, start + len(batch)))
            start += len(batch)
            values = {model: _column(batch, f"loss_{model}") for model in models}
            if with_pd:
                values["pd"] = -np.expm1(values["strong"] - values["weak"])
                values["length"] = _column(batch, columns[-1])
                values["cross"] = values["pd"] * values["length"]
                negative += np.bincount(source_N, values["pd"] < 0, groups)
            for name, value_N in values.items():
                for power in range(3):
                    moments[name][power] += np.bincount(source_N, value_N**power, groups)
    whole = {name: np.concatenate([value, value.sum(axis=1, keepdims=True)], axis=1) for name, value in moments.items()}
    means = {name: _mean(value) for name, value in whole.items()}
    deviations = {name: _deviation(value) for name, value in whole.items()}
    counts = next(iter(whole.values()))[0]
    below = np.append(negative, negative.sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        covariance = means["cross"] - means["pd"] * means["length"] if with_pd else None
        correlation = covariance / (deviations["pd"] * deviations["length"]) if covariance is not None else None
        share = below / counts
    return SourceSums(
        list(tokens.sources),
        counts.astype(np.int64),
        {model: means[model] for model in models},
        {model: deviations[model] for model in models},
        means["pd"] if with_pd else None,
        deviations["pd"] if with_pd else None,
        share if with_pd else None,
        correlation,
    )


def _column(batch: object, name: str) -> NDArray[np.float64]:
    return np.asarray(batch.column(name).to_numpy(zero_copy_only=False), dtype=np.float64)  # type: ignore[attr-defined]


def _mean(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        result: NDArray[np.float64] = moments[1] / moments[0]
    return result


def _deviation(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        result: NDArray[np.float64] = np.sqrt(np.maximum(moments[2] / moments[0] - _mean(moments) ** 2, 0))
    return result
