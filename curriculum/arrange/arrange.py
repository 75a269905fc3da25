"""Arrange: turn scores and a preference into a plan, and the plan into an ORDER.

columns -> cut into cells -> plan (steps by cells) -> deal every cell -> compose the steps
"""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path

from curriculum.arrange.arrangement import Arrangement
from curriculum.arrange.cells import Layout
from curriculum.arrange.interleave import OrderWriter
from curriculum.arrange.stages import StageWish, stage_ends
from curriculum.arrange.subset import subset
from curriculum.arrange.twin import TWINS, write_twin
from curriculum.artifact.create import create, reusable
from curriculum.artifact.outputs import check_place
from curriculum.order.order import KIND, Order
from curriculum.order.permutation import key_of
from curriculum.pairs.pairs import open_samples
from curriculum.preference import FOLD, SOURCE, Pdpc, Preference, Shuffled
from curriculum.preference.own import record
from curriculum.scores.columns import LENGTH, SampleColumns
from curriculum.scores.expression import Expression
from curriculum.scores.findings import Findings, of_scores
from curriculum.scores.own import OwnScores
from curriculum.scores.scores import Scores
from curriculum.work.printable import printable

log = logging.getLogger(__name__)

NONFINITE = ("fail", "bucket")
MOST_LISTED = 8
"""Maximum number of buckets listed in the summary line."""


@dataclass(frozen=True)
class ArrangeSettings:
    """Settings of `pdpc arrange`."""

    output: str
    """ORDER folder to write."""
    tokens: str | None = None
    """TOKENS or PAIRS folder; null if `own_scores` has a row for every sample and training happens elsewhere."""
    slice: str = "train"
    """Slice of TOKENS to arrange: train, or reference for the reference models."""
    sources: list[str] = field(default_factory=list)
    """Arrange only the samples of these sources; empty: of all."""
    scores: str | None = None
    """SCORES folder: losses and the columns derived from them (pd, ppl_strong, ...)."""
    own_scores: str | None = None
    """Your own Parquet (a file or a folder of files): numbers by `sample`, by `document`, or row by row."""
    nonfinite: str = "fail"
    """How to treat samples with a non-finite score: fail, or bucket (a separate bucket, spread evenly)."""
    preference: Preference = field(default_factory=Shuffled)
    """How much each bucket is wanted at each moment."""
    batch_size: int = 256
    """Samples in a global batch, i.e. per optimizer step."""
    stages: int = 4
    """Number of equal parts of the run; each ends with a checkpoint and an evaluation."""
    stage_tokens: list[int] = field(default_factory=list)
    """Instead of `stages`: trained-token counts at which stages end; the last stage ends with the run."""
    stage_quantiles: list[float] = field(default_factory=list)
    """Instead of `stages`: stages end where the plan's mean score crosses these score quantiles, in this order."""
    stages_of: str | None = None
    """Instead of `stages`: the stages of this ORDER, the other arm of a comparison."""
    seed: int = 0
    """Seed of every permutation."""
    max_tokens: int | None = None
    """Arrange a random subset of about this many tokens, the same for every preference; null: the whole slice."""
    workers: int | None = None
    """Threads; null: one per usable CPU. The order does not depend on it."""
    twin_of: str | None = None
    """Instead of all the rest but seed: this ORDER, of which to write a twin with the same samples."""
    twin: str | None = None
    """mirrored (its plan backwards in time), tied (every bucket's share constant) or permuted (its plan, with the
    samples of every stratum exchanged at random, as by permuted scores)."""

    def __post_init__(self) -> None:
        if self.twin is not None or self.twin_of is not None:
            self._check_twin()
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1")
        self.stage_wish()
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens={self.max_tokens} must be at least 1, or null for the whole slice")
        if self.nonfinite not in NONFINITE:
            raise ValueError(f"nonfinite={self.nonfinite!r} must be one of {', '.join(NONFINITE)}")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers={self.workers} must be at least 1, or null for one per usable CPU")
        if self.tokens is None and self.scores is not None:
            raise ValueError("scores=FOLDER needs tokens=FOLDER: give both, or own_scores=FILE instead")

    def _check_twin(self) -> None:
        """Raise ValueError unless the settings of a twin are complete and nothing else is set."""
        if self.twin_of is None:
            raise ValueError(f"twin={self.twin} needs twin_of=ORDER, the order to write a twin of")
        if self.twin not in TWINS:
            raise ValueError(f"twin={self.twin!r} is unknown: use one of {', '.join(TWINS)}")
        for item in fields(self):
            value = getattr(self, item.name)
            default = item.default if item.default is not MISSING else None
            if item.default_factory is not MISSING:
                default = item.default_factory()
            usual = value in (Shuffled(), Pdpc()) if item.name == "preference" else value == default
            if item.name not in ("output", "seed", "twin", "twin_of") and not usual:
                raise ValueError(f"{item.name} has no effect with twin={self.twin}: it is that of twin_of; remove it")

    def stage_wish(self) -> StageWish:
        """Return where stages should end."""
        return StageWish(self.stages, self.stage_tokens, self.stage_quantiles, self.stages_of)


def run(settings: ArrangeSettings) -> Order:
    """Write the ORDER described by `settings`, or open it if it already exists."""
    if settings.twin is not None:
        return write_twin(Order.open(str(settings.twin_of)), settings.twin, settings.seed, Path(settings.output))
    columns = open_columns(settings)
    folder = Path(settings.output)
    places = ("tokens", "scores", "own_scores", "stages_of", "output", "workers", "twin", "twin_of")
    config = {key: value for key, value in asdict(settings).items() if key not in places}
    if not settings.sources:  # as in orders written before this setting existed
        del config["sources"]
    config |= record(settings.preference) | ties(settings.preference)
    with ThreadPoolExecutor(1) as reader:
        # Fingerprinting reads all scores: do it during the first pass over them, not before.
        inputs = reader.submit(lambda: {**columns.inputs, **settings.preference.inputs, **_stages_of(settings)})
        if os.path.lexists(folder) and reusable(folder, KIND, config=config, inputs=inputs.result()):
            log.info("order %s is complete and up to date: reused", folder)
            warn_of_scores(columns)
            return Order.open(folder)
        check_place("output", folder)
        layout = Layout(
            settings.preference,
            columns,
            fold_key=key_of(settings.seed, "fold"),
            keep_unscored=settings.nonfinite == "bucket",
            times=subset(columns, settings.sources, settings.max_tokens, settings.seed),
            workers=settings.workers,
        )
        with (
            create(folder, KIND, config=config) as draft,
            Arrangement(layout, settings.batch_size, settings.seed, draft.path) as arrangement,
            OrderWriter(draft, columns.samples, layout.cells, hashed=not arrangement.whole) as writer,
        ):
            _check_size(settings, arrangement)
            samples_C = arrangement.counts_CU.sum(axis=1)
            ends = stage_ends(settings.stage_wish(), layout, arrangement.plan_SC, samples_C, settings.batch_size)
            writer.steps(arrangement.plan_SC, arrangement.counts_SC)
            for ids, cells in arrangement.pieces():
                writer.positions(ids, cells)
            draft.inputs.update(inputs.result())
            columns.recheck()
            draft.facts.update(
                writer.finish(),
                **arrangement.facts(),
                steps=len(arrangement.counts_SC),
                batch_size=settings.batch_size,
                stage_ends=ends,
                slice=settings.slice,
                seq_len=columns.tokens.seq_len if columns.tokens is not None else None,
                **findings_of(columns).as_fact(),
            )
    order = Order.open(folder)
    _log_summary(order, layout)
    warn_of_scores(columns)
    return order


def open_columns(settings: ArrangeSettings) -> SampleColumns:
    """Open the inputs in the settings. Raises ValueError when the preference needs scores that are not given."""
    tokens = open_samples(settings.tokens, settings.slice) if settings.tokens is not None else None
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
                f"preference={settings.preference.name} cuts by {by[0]!r}: give scores=FOLDER (from pdpc score) or "
                "own_scores=FILE"
            )
    return SampleColumns(tokens, scores, own)


def ties(preference: Preference) -> dict[str, str]:
    """Return what the config of a sorted order says about equal scores; before, they kept the order of the corpus."""
    return {"ties": "random"} if preference.sorts else {}


def findings_of(columns: SampleColumns) -> Findings:
    """Return what `pdpc score` found about the scores of these samples."""
    if columns.scores is None:
        return Findings()
    return of_scores(columns.scores.manifest.facts).of_slice(columns.scores.slice)


def warn_of_scores(columns: SampleColumns) -> None:
    """Log what `pdpc score` found about the scores of these samples."""
    found = findings_of(columns)
    for text in found.all:
        log.warning("warning: %s: %s", columns.place, text)
    if found.unusable:
        log.warning("warning: the order is by unusable scores: pdpc train will ask for accept_scores=true")


def _scored(settings: ArrangeSettings) -> bool:
    return any(cut.by not in (SOURCE, FOLD) for cut in settings.preference.cuts())


def _stages_of(settings: ArrangeSettings) -> dict[str, str]:
    return {"stages_of": Order.open(settings.stages_of).fingerprint} if settings.stages_of is not None else {}


def _check_size(settings: ArrangeSettings, arrangement: Arrangement) -> None:
    parts = settings.stage_wish().parts
    if arrangement.total < settings.batch_size or len(arrangement.counts_SC) < parts:
        raise ValueError(
            f"{settings.tokens or settings.own_scores} has {arrangement.total} samples to arrange, fewer than "
            f"{parts} stages of one batch of {settings.batch_size} samples need: lower batch_size or stages, or "
            "prepare more text"
        )


def _log_summary(order: Order, layout: Layout) -> None:
    facts = order.manifest.facts
    log.info(
        "order %s: %s samples in %s steps of %s, %s, buckets %s%s, left out %s, repeated %s",
        order.folder,
        f"{len(order):,}",
        f"{order.steps:,}",
        f"{order.batch_size:,}",
        "1 stage" if len(order.stage_ends) == 1 else f"{len(order.stage_ends):,} stages",
        ", ".join(f"{bucket.name}={bucket.samples:,}" for bucket in order.buckets[:MOST_LISTED])
        + (f" and {len(order.buckets) - MOST_LISTED} more" if len(order.buckets) > MOST_LISTED else ""),
        f" (cut within each of {len(layout.sources)} sources)" if layout.stratified else "",
        f"{facts['left_out']:,}",
        f"{facts['repeated']:,}",
    )
    if layout.stratified and layout.columns.tokens is None and layout.strata == 1:
        log.warning("the scores have no column `source`, so there is one stratum: add it to keep the mix of sources")
    if facts["spread_evenly"]:
        log.info(
            "too few distinct scores to cut into buckets, spread evenly: %s",
            printable(", ".join(facts["spread_evenly"])),
        )
