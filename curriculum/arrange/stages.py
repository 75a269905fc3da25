"""Stages: the steps of an order after which a run is saved and evaluated.

Equal parts of the run, token counts, points where the plan's mean score crosses quantiles, or the stages of another
order, so that two arms are evaluated at the same steps.

Shapes: S steps, C cells, K buckets, T strata.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, prod

import numpy as np
from numpy.typing import NDArray

from curriculum.arrange.cells import Layout
from curriculum.order.order import Order
from curriculum.preference import FOLD, SOURCE


@dataclass(frozen=True)
class StageWish:
    """Where stages end, in addition to the end of the run; fields are named like the settings of `pdpc arrange`."""

    stages: int
    stage_tokens: Sequence[int] = ()
    stage_quantiles: Sequence[float] = ()
    stages_of: str | None = None

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise ValueError(f"stages={self.stages} must be at least 1")
        given = [name for name in ("stage_tokens", "stage_quantiles", "stages_of") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{given[0]} and {given[1]} both set where stages end: give only one of them")
        if any(first >= second for first, second in pairwise([0, *self.stage_tokens])):
            raise ValueError(f"stage_tokens={list(self.stage_tokens)} must be positive and rising")
        if any(not 0 < quantile < 1 for quantile in self.stage_quantiles):
            raise ValueError(f"stage_quantiles={list(self.stage_quantiles)} must lie between 0 and 1")

    @property
    def parts(self) -> int:
        """Minimum number of stages."""
        given = (self.stages_of and 1) or len(self.stage_tokens) or len(self.stage_quantiles)
        return given or self.stages


def stage_ends(
    wish: StageWish,
    layout: Layout,
    plan_SC: NDArray[np.float64],
    samples_C: NDArray[np.int64],
    batch_size: int,
) -> list[int]:
    """Return the steps after which stages end, rising to S.

    `plan_SC` is the plan and `samples_C` the samples of each cell. Raises ValueError naming a stage that the run does
    not reach.
    """
    steps = len(plan_SC)
    if wish.stages_of is not None:
        return _same_as(Order.open(wish.stages_of), steps, batch_size)
    if wish.stage_tokens:
        return _after_tokens(wish.stage_tokens, layout, steps, batch_size)
    if wish.stage_quantiles:
        return _at_quantiles(wish.stage_quantiles, plan_SC @ score_ranks(layout, samples_C) / plan_SC.sum(axis=1))
    return [round(steps * stage / wish.stages) for stage in range(1, wish.stages + 1)]


def score_ranks(layout: Layout, samples_C: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean quantile of each cell's scores in its stratum, [C]: 0.25 and 0.75 for two equal buckets.

    Scores are those of the first cut by a score. Samples without a score count as 0.5. Raises ValueError for a
    preference that does not cut by a score.
    """
    cuts = [made.cut.by not in (SOURCE, FOLD) for made in layout.cuts]
    if not any(cuts):
        raise ValueError(
            f"stage_quantiles: preference={layout.preference.name} does not cut by a score, so its plan has no mean "
            "score: use stage_tokens, or stages_of=ORDER with the order of the other arm"
        )
    first = cuts.index(True)
    parts = layout.cuts[first].parts
    inner = prod(made.parts for made in layout.cuts[first + 1 :])
    part_K = np.arange(layout.buckets) // inner % parts
    scored = layout.strata * layout.buckets
    rank_C = np.full(layout.cells, 0.5)
    for stratum in range(layout.strata):
        cells = slice(stratum * layout.buckets, (stratum + 1) * layout.buckets)
        samples_P = np.bincount(part_K, weights=samples_C[:scored][cells], minlength=parts)
        middle_P = (np.cumsum(samples_P) - samples_P / 2) / max(samples_P.sum(), 1)
        rank_C[cells] = middle_P[part_K]
    return rank_C


def _same_as(order: Order, steps: int, batch_size: int) -> list[int]:
    if (order.steps, order.batch_sizes) != (steps, [[0, batch_size]]):
        raise ValueError(
            f"stages_of: {order.folder} has {order.steps} steps of {order.batch_size} samples, this order has "
            f"{steps} of {batch_size}: compared arms need the same samples and the same batch size"
        )
    return order.stage_ends


def _after_tokens(counts: Sequence[int], layout: Layout, steps: int, batch_size: int) -> list[int]:
    """Return the first step by which each count has been trained on, assuming samples of average length."""
    tokens = layout.columns.tokens
    if tokens is None:
        raise ValueError("stage_tokens needs tokens=FOLDER to know how long a sample is")
    tokens_per_step = batch_size * tokens.tokens / len(tokens)
    ends = [ceil(count / tokens_per_step) for count in counts]
    if ends[-1] > steps:
        raise ValueError(
            f"stage_tokens: {counts[-1]} tokens are more than the run's {round(steps * tokens_per_step)}: remove the "
            "last entry, because the end of the run always ends a stage"
        )
    return _with_last(ends, steps, f"stage_tokens={list(counts)}")


def _at_quantiles(quantiles: Sequence[float], mean_S: NDArray[np.float64]) -> list[int]:
    ends: list[int] = []
    for quantile in quantiles:
        start = ends[-1] if ends else 0
        above_S = mean_S[start:] > quantile
        crossed = np.flatnonzero(above_S[1:] != above_S[:-1])
        if not len(crossed):
            raise ValueError(
                f"stage_quantiles: after step {start} the plan's mean score does not cross the quantile {quantile}; "
                f"it goes from {mean_S[start]:.3f} to {mean_S[-1]:.3f} and lies between {mean_S[start:].min():.3f} and "
                f"{mean_S[start:].max():.3f}: choose quantiles in that range, in the order in which they are crossed"
            )
        ends.append(start + int(crossed[0]) + 1)
    return _with_last(ends, len(mean_S), f"stage_quantiles={list(quantiles)}")


def _with_last(ends: list[int], steps: int, setting: str) -> list[int]:
    if any(first == second for first, second in pairwise(ends)):
        raise ValueError(f"{setting} ends two stages after the same step ({ends}): move them apart")
    return ends if ends[-1] == steps else [*ends, steps]
