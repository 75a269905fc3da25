"""`pdpc inspect RUN hindsight=SCORES`: what the run's final weights remember of its order, by position and bucket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from curriculum.arrange.cells import Layout
from curriculum.artifact.files import ArtifactError, replacing
from curriculum.artifact.outputs import check_file, holds
from curriculum.audit.hindsight import FEWEST, Hindsight, Samples, baseline_of, hindsight
from curriculum.audit.hindsight_samples import cut_of, layout_of, left_out, samples_of
from curriculum.audit.hindsight_table import Effects, as_csv, effects_of, wish_of
from curriculum.preference.base import ScoreCut
from curriculum.scores.columns import SampleColumns
from curriculum.scores.scores import Scores
from curriculum.tokens.tokens import Tokens
from curriculum.work.console import cell
from launch.inspect.settings import InspectSettings
from launch.inspect.subject import Subject
from train.records.skipped import SKIPPED, lost_steps

MODEL = "final"
"""Name of the run's weights in the SCORES of the pass."""
VALIDATION = "validation"
NORMAL = 1.96


def show_hindsight(subject: Subject, settings: InspectSettings, console: Any) -> int:
    """Score the order's slice and never-read samples with the final weights, or reuse such scores; print what follows.

    Returns the exit code. Raises ValueError or ArtifactError, before anything is scored, for a run that is not
    finished, missing tokens, and an order without never-read samples to compare with.
    """
    tokens = _checked(subject, settings)
    slices = [tokens.slice, *_validation(tokens)]
    columns = subject.columns
    assert columns is not None, "a run with tokens has columns"
    cut = cut_of(subject.order, columns.names, settings.cut_by, settings.buckets)
    layout = layout_of(cut, columns)
    if settings.prefer is not None and settings.prefer not in layout.bucket_names:
        raise ValueError(f"prefer={settings.prefer} is not one of the buckets {', '.join(layout.bucket_names)}")
    if settings.table is not None and layout.buckets < 2:
        raise ValueError(f"table={settings.table} needs buckets: give scores=FOLDER or own_scores=FILE to cut by")
    outside = _outside(layout, columns, slices)
    features = _features(columns, outside)
    read = samples_of(layout, columns, features)
    unread = samples_of(layout, outside, features) if outside is not None else left_out(subject.order, read)
    cells = len(layout.sources) * layout.buckets
    _check_unread(read, unread, cells, slices, subject)
    assert settings.hindsight is not None, "only called with hindsight"
    if code := _score(settings, subject, tokens, slices):
        return code
    read = replace(read, loss_N=_losses(settings.hindsight, tokens.slice))
    if outside is not None:
        unread, what = replace(unread, loss_N=_losses(settings.hindsight, VALIDATION)), f"slice {VALIDATION!r}"
    else:
        unread, what = left_out(subject.order, read), f"those of slice {tokens.slice!r} that the order leaves out"
    baseline = baseline_of(unread, cells)
    assert subject.run is not None, "checked"
    lost = lost_steps(subject.run.folder / SKIPPED)
    found = hindsight(subject.order, read, baseline, layout.bucket_names, lost)
    adjusted = f", adjusted for {' and '.join(features)}" if features else ""
    console.print(cell(f"HINDSIGHT of {subject.run.folder}, {settings.loss_model or 'newest checkpoint'}", "bold"))
    console.print(
        cell(
            f"baseline      {baseline.samples:,} never-read samples, {what}, by bucket and source{adjusted}: "
            f"{baseline.explained:.0%} of their variance"
        )
    )
    effects = effects_of(found)
    console.print(_table(found, effects))
    for line in _lines(found, effects):
        console.print(cell(line))
    if settings.picture is not None:
        from launch.inspect.hindsight_picture import draw

        draw(found, effects, Path(settings.picture))
        console.print(f"picture: {settings.picture}", markup=False)
    if settings.table is not None:
        _write_table(found, effects, settings, cut, console)
    return 0


def _checked(subject: Subject, settings: InspectSettings) -> Tokens:
    """Return the run's TOKENS. Raises before any weights are read."""
    if subject.run is None:
        raise ValueError(f"hindsight={settings.hindsight} needs a RUN, but {settings.folder} is an ORDER: give its run")
    if subject.run.fact("status") != "finished":
        raise ArtifactError(
            f"run {subject.run.folder} is not finished, so its final weights do not exist yet: finish training first"
        )
    if subject.tokens is None:
        raise ValueError(f"hindsight={settings.hindsight} needs the order's tokens: give tokens=FOLDER")
    if settings.table is not None:
        check_file("table", Path(settings.table), holds(Path(settings.table), "progress,"))
    if settings.picture is not None:
        from curriculum.work.figures import check_picture
        from launch.inspect.hindsight_picture import TITLE

        check_picture(Path(settings.picture), TITLE)
    return subject.tokens


def _validation(tokens: Tokens) -> list[str]:
    """Return the validation slice's name if it can be a baseline."""
    return [VALIDATION] if tokens.slice != VALIDATION and len(Tokens.open(tokens.folder, VALIDATION)) else []


def _outside(layout: Layout, columns: SampleColumns, slices: list[str]) -> SampleColumns | None:
    """Return the columns of the validation slice; None without it, or without the scores to cut it by."""
    if VALIDATION not in slices:
        return None
    assert columns.tokens is not None, "checked"
    try:
        scores = Scores.open(columns.scores.folder, VALIDATION) if columns.scores is not None else None
    except ArtifactError:  # this slice was not scored
        scores = None
    found = SampleColumns(Tokens.open(columns.tokens.folder, VALIDATION), scores, None)
    needed = {name for expression in layout.expressions for name in expression.names}
    return found if needed <= set(found.names) else None


def _check_unread(read: Samples, unread: Samples, cells: int, slices: list[str], subject: Subject) -> None:
    """Raise ValueError if no position of the order has a baseline."""
    if ((unread.counts(cells) >= FEWEST) & (read.counts(cells) > 0)).any():
        return
    order, tokens = subject.order, subject.tokens
    assert tokens is not None, "checked"
    if len(unread.loss_N):
        raise ValueError(
            f"no bucket of a source has {FEWEST} of the {len(unread.loss_N):,} never-read samples: prepare a larger "
            f"{VALIDATION} slice, or cut into fewer buckets"
        )
    why = f"{tokens.folder} has no slice {VALIDATION!r} of never-read text: prepare it with validation_fraction"
    if VALIDATION in slices:
        why = f"slice {VALIDATION!r} of {tokens.folder} has no scores to cut by: score it with the same models"
    whole = f"{order.folder} reads all of slice {tokens.slice!r}"
    raise ValueError(f"there are no never-read samples to compare with: {whole}, and {why}")


def _score(settings: InspectSettings, subject: Subject, tokens: Tokens, slices: list[str]) -> int:
    """Score the slices with the run's weights as `pdpc score` does; return the exit code."""
    from launch.score.score import run
    from launch.score.settings import ScoreSettings

    assert settings.hindsight is not None, "only called with hindsight"
    assert subject.run is not None, "checked"
    models = {MODEL: settings.loss_model or str(subject.run.folder)}
    made = run(ScoreSettings(str(tokens.folder), settings.hindsight, models, slices))
    return made if isinstance(made, int) else 0


def _losses(folder: str, slice_name: str) -> Any:
    return Scores.open(folder, slice_name).column(f"loss_{MODEL}")


def _features(columns: SampleColumns, outside: SampleColumns | None) -> list[str]:
    """Return the losses of reference models that both sides have: they say how difficult a sample is."""
    if columns.scores is None:
        return []
    names = [f"loss_{name}" for name in columns.scores.models]
    return [name for name in names if outside is None or name in outside.names]


def _table(found: Hindsight, effects: Effects) -> Any:
    """Return a table with a column per part: losses and what is remembered, by bucket and in all."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), title="nats per token", title_justify="left")
    table.add_column("progress up to", no_wrap=True, max_width=24, overflow="ellipsis")
    for end in found.edges_P[1:]:
        table.add_column(f"{100 * end / found.edges_P[-1]:.0f}%", justify="right", no_wrap=True)
    for index, name in enumerate(found.buckets):
        table.add_row(cell(f"{name} loss"), *_numbers(found.loss_PK[:, index], ".3f"))
    for index, name in enumerate(found.buckets):
        table.add_row(cell(f"{name} remembered"), *_numbers(found.remembered_PK[:, index], "+.3f"))
    if len(found.buckets) > 1:
        table.add_row("remembered, same mix", *_numbers(effects.curve_P, "+.3f"))
    table.add_row("+- (95 %)", *_numbers(NORMAL * effects.error_P, ".3f"))
    return table


def _numbers(values: Any, form: str) -> list[str]:
    return [format(value, form) if np.isfinite(value) else "-" for value in values]


def _lines(found: Hindsight, effects: Effects) -> Iterator[str]:
    """Yield what the table says, in words, and what it leaves out."""
    yield f"remembered    {found.mean:+.4f} +- {NORMAL * found.level_error:.4f} on average (the baseline's error)"
    ends = [0.0, *(100 * found.edges_P[1:] / found.edges_P[-1])]
    if effects.curve.kept:
        most, least = int(np.nanargmax(effects.curve_P)), int(np.nanargmin(effects.curve_P))
        where = [f"at {ends[at]:.0f} to {ends[at + 1]:.0f} % ({effects.curve_P[at]:+.4f})" for at in (most, least)]
        yield f"by position   most {where[0]}, least {where[1]}: preferred data belong where most is remembered"
    else:
        yield "by position   no difference that is more than noise"
    if len(found.buckets) > 1:
        differ = "differ" if effects.own.kept else "do not differ by more than noise"
        yield f"by bucket     the buckets' curves {differ}"
    if found.without:
        yield f"left out      {found.without:,} positions with fewer than {FEWEST} never-read samples of their kind"
    if found.lost:
        yield f"left out      {found.lost:,} positions of steps that were skipped or rolled back"


def _write_table(
    found: Hindsight, effects: Effects, settings: InspectSettings, cut: ScoreCut | Any, console: Any
) -> None:
    shares_PK, kept = wish_of(found, effects, settings.prefer)
    path = Path(str(settings.table))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(as_csv(found, shares_PK).encode())
    words = [f"preference.file={path}", f"preference.score='{cut.score}'", f"preference.buckets={cut.parts}"]
    words += [f"preference.edges={cut.edges}"] if cut.edges else []
    words += [f"preference.stratify_by={cut.stratify_by}"] if cut.stratify_by else []
    note = "" if kept else "; its shares are constant, because nothing is more than noise"
    console.print(cell(f"table: {path}{note}"))
    console.print(cell(f"  pdpc arrange ... preference=table {' '.join(words)}"))
