"""Arrange: scores and a preference become a plan, and the plan an ORDER.

columns -> cut into cells -> plan (steps by cells) -> deal every cell -> compose the steps
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curriculum.arrange.arrangement import Arrangement
from curriculum.arrange.cells import Layout, Times
from curriculum.arrange.interleave import OrderWriter
from curriculum.arrange.stages import StageWish, stage_ends
from curriculum.artifact.manifest import create, reusable
from curriculum.order.order import KIND, Order
from curriculum.order.permutation import KeyedPermutation, key_of
from curriculum.preference import FOLD, SOURCE, Preference, Shuffled
from curriculum.scores.columns import LENGTH, SampleColumns
from curriculum.scores.expression import Expression
from curriculum.scores.own import OwnScores
from curriculum.scores.scores import Scores
from curriculum.tokens.tokens import Tokens

log = logging.getLogger(__name__)

NONFINITE = ("fail", "bucket")
MOST_TOLD = 8
"""Buckets that the last line tells one by one."""


@dataclass(frozen=True)
class ArrangeSettings:
    """What `pdpc arrange` is told."""

    output: str
    """ORDER folder to write."""
    tokens: str | None = None
    """TOKENS folder; null where `own_scores` has a row for every sample and the training is done elsewhere."""
    slice: str = "train"
    """Slice of TOKENS to arrange: train, or reference for the reference models."""
    scores: str | None = None
    """SCORES folder: losses, and what follows from them (pd, ppl_strong, ...)."""
    own_scores: str | None = None
    """Parquet of your own (a file, or a folder of them): numbers by `sample`, by `document`, or row by row."""
    nonfinite: str = "fail"
    """What becomes of samples whose score is not a finite number: fail, or bucket (one of their own, spread evenly)."""
    preference: Preference = field(default_factory=Shuffled)
    """How much each bucket is wanted at each moment."""
    batch_size: int = 256
    """Samples in a global batch: what one optimizer step sees."""
    stages: int = 4
    """Equal parts of the run; each ends with a checkpoint and an evaluation."""
    stage_tokens: list[int] = field(default_factory=list)
    """Instead: a stage ends when so many tokens have been trained on, and the last one with the run."""
    stage_quantiles: list[float] = field(default_factory=list)
    """Instead: a stage ends where the plan's mean score crosses these quantiles of the scores, one after the other."""
    stages_of: str | None = None
    """Instead: the stages of this ORDER, the arm that is compared with."""
    seed: int = 0
    """Key of every permutation."""
    max_tokens: int | None = None
    """Arrange a random subset of about so many tokens, the same for every preference; None: the whole slice."""
    workers: int | None = None
    """Threads; null: one a core. The order does not depend on it."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1")
        self.stage_wish()
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens={self.max_tokens} must be at least 1, or null for the whole slice")
        if self.nonfinite not in NONFINITE:
            raise ValueError(f"nonfinite={self.nonfinite!r} must be one of {', '.join(NONFINITE)}")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers={self.workers} must be at least 1, or null for one a core")
        if self.tokens is None and self.scores is not None:
            raise ValueError("scores are of TOKENS: give tokens=FOLDER too, or own_scores=FILE in their place")

    def stage_wish(self) -> StageWish:
        """Return where stages are to end."""
        return StageWish(self.stages, self.stage_tokens, self.stage_quantiles, self.stages_of)


def run(settings: ArrangeSettings) -> Order:
    """Write the ORDER that `settings` describe, or open it when it is there already."""
    columns = open_columns(settings)
    folder = Path(settings.output)
    places = ("tokens", "scores", "own_scores", "stages_of", "output", "workers")
    config = {key: value for key, value in asdict(settings).items() if key not in places}
    with ThreadPoolExecutor(1) as reader:
        # All scores are read for their fingerprint: beside the first pass over them, not before it.
        inputs = reader.submit(lambda: {**columns.inputs, **settings.preference.inputs, **_stages_of(settings)})
        if folder.exists() and reusable(folder, KIND, config=config, inputs=inputs.result()):
            log.info("order %s is whole and made of the same: reused", folder)
            return Order.open(folder)
        layout = Layout(
            settings.preference,
            columns,
            fold_key=key_of(settings.seed, "fold"),
            keep_unscored=settings.nonfinite == "bucket",
            times=_subset(columns, settings),
            workers=settings.workers,
        )
        with (
            create(folder, KIND, config=config) as draft,
            Arrangement(layout, settings.batch_size, settings.seed, draft.path) as arrangement,
            OrderWriter(draft, columns.samples, layout.cells) as writer,
        ):
            _check_size(settings, arrangement)
            samples_C = arrangement.counts_CU.sum(axis=1)
            ends = stage_ends(settings.stage_wish(), layout, arrangement.plan_SC, samples_C, settings.batch_size)
            writer.steps(arrangement.plan_SC, arrangement.counts_SC)
            for ids, cells in arrangement.pieces():
                writer.positions(ids, cells)
            draft.inputs.update(inputs.result())
            draft.facts.update(
                writer.finish(),
                **arrangement.facts(),
                steps=len(arrangement.counts_SC),
                batch_size=settings.batch_size,
                stage_ends=ends,
                slice=settings.slice,
                seq_len=columns.tokens.seq_len if columns.tokens is not None else None,
            )
    order = Order.open(folder)
    _tell(order, layout)
    return order


def open_columns(settings: ArrangeSettings) -> SampleColumns:
    """Open what the settings name. Raises ValueError when the preference needs scores that are not given."""
    tokens = Tokens.open(settings.tokens, settings.slice) if settings.tokens is not None else None
    if tokens is not None and len(tokens) == 0:
        raise ValueError(
            f"slice {settings.slice!r} of {settings.tokens} has no samples: prepare it with a larger share"
        )
    scores = Scores.open(settings.scores, settings.slice) if settings.scores and _scored(settings) else None
    own = OwnScores(settings.own_scores) if settings.own_scores and (_scored(settings) or tokens is None) else None
    if _scored(settings) and scores is None and own is None:
        scored = [cut.by for cut in settings.preference.cuts() if cut.by not in (SOURCE, FOLD)]
        by = [text for text in scored if Expression(text).names != [LENGTH]]
        if by:
            raise ValueError(
                f"preference={settings.preference.name} cuts by {by[0]!r}: give scores=FOLDER (made by pdpc score) or "
                "own_scores=FILE"
            )
    return SampleColumns(tokens, scores, own)


def _scored(settings: ArrangeSettings) -> bool:
    return any(cut.by not in (SOURCE, FOLD) for cut in settings.preference.cuts())


def _stages_of(settings: ArrangeSettings) -> dict[str, str]:
    return {"stages_of": Order.open(settings.stages_of).fingerprint} if settings.stages_of is not None else {}


def _subset(columns: SampleColumns, settings: ArrangeSettings) -> Times | None:
    """Return which samples to arrange: all (None), or a keyed random part that all preferences share."""
    if settings.max_tokens is None:
        return None
    if columns.tokens is None:
        raise ValueError("max_tokens needs tokens=FOLDER, which knows how long a sample is")
    samples = columns.samples
    wanted = min(samples, -(-settings.max_tokens // columns.tokens.seq_len))
    permutation = KeyedPermutation(samples, key_of(settings.seed, "subset"))

    def times(first: int, count: int) -> NDArray[np.uint8]:
        return (permutation(np.arange(first, first + count)) < wanted).astype(np.uint8)

    return times


def _check_size(settings: ArrangeSettings, arrangement: Arrangement) -> None:
    parts = settings.stage_wish().parts
    if arrangement.total < settings.batch_size or len(arrangement.counts_SC) < parts:
        raise ValueError(
            f"{settings.tokens or settings.own_scores} has {arrangement.total} samples to arrange, which is fewer than "
            f"{parts} stages of one batch of {settings.batch_size} need: lower batch_size or stages, or "
            "prepare more text"
        )


def _tell(order: Order, layout: Layout) -> None:
    facts = order.manifest.facts
    log.info(
        "order %s: %s samples in %s steps of %s, %s stages, buckets %s%s, left out %s, repeated %s",
        order.folder,
        len(order),
        order.steps,
        order.batch_size,
        len(order.stage_ends),
        ", ".join(f"{bucket.name}={bucket.samples}" for bucket in order.buckets[:MOST_TOLD])
        + (f" and {len(order.buckets) - MOST_TOLD} more" if len(order.buckets) > MOST_TOLD else ""),
        f" in each of {len(layout.sources)} sources" if layout.stratified else "",
        facts["left_out"],
        facts["repeated"],
    )
    if layout.stratified and layout.columns.tokens is None and layout.strata == 1:
        log.warning("the scores name no sources, so that there is one stratum: add a column `source` to keep their mix")
    if layout.poor_strata:
        log.info("too few distinct scores to part, spread evenly: %s", ", ".join(layout.poor_strata))
