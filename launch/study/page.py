"""The page of a study: the primary comparison first, the price beside it, then every other comparison."""

from __future__ import annotations

import json
from pathlib import Path

from curriculum.artifact.files import write_text
from launch.study.file import Study
from launch.study.results import BOTH, DIFFERENCE, UNSUPPORTED, Results, named
from train.report import charts, theme
from train.report.measures import Measure
from train.report.page import templates
from train.report.writing import plain

MOST_ROWS = 24


def write_page(study: Study, results: Results, folder: Path) -> Path:
    """Write study.html and results.json into the study's folder; return the path of the page."""
    write_text(folder / "results.json", json.dumps(plain(results.as_dict()), indent=1, allow_nan=False) + "\n")
    path = folder / "study.html"
    write_text(path, render(study, results))
    return path


def render(study: Study, results: Results) -> str:
    """Return the page as one self-contained HTML file; the same results give the same bytes."""
    from markupsafe import Markup

    return (
        templates(Path(__file__).parent)
        .get_template("page.html.j2")
        .render(
            study=study,
            results=results,
            twins_found=results.twins,
            headline=headline(study, results),
            supported=results.primary.evidence != UNSUPPORTED,
            both=BOTH,
            difference=DIFFERENCE,
            named=named,
            rows=sorted(results.secondary, key=lambda one: (one.arm, one.schedule, one.measure.key)),
            pictures=[Markup(picture.inline()) for picture in _pictures(results)],  # noqa: S704 - labels are escaped by the drawing
            light=theme.variables(dark=False),
            dark=theme.variables(dark=True),
        )
    )


def headline(study: Study, results: Results) -> str:
    """Return what the primary comparison says, in one sentence: better or worse only if the evidence supports it."""
    one = results.primary
    measure, gain = one.measure, one.gain
    what = f"{named(study, one.arm, one.schedule)} compared with "
    what += named(study, study.baseline, results.baseline_schedule)
    value = f"{measure.write_difference(gain.value)} {measure.words} on {measure.key}"
    if gain.low is not None:
        value += f", 95 % interval {measure.write_interval(gain.low, gain.high)} over {gain.seeds} seeds"
        value += " and other documents" if gain.method == BOTH else ""
    return f"{what}: {one.doubt} ({value})." if one.doubt else f"{what} is {gain.verdict}: {value}."


def _pictures(results: Results) -> list[theme.Picture]:
    """Draw the differences of every arm: those of losses in one picture, those of benchmarks in another."""
    gains = results.gains
    first = results.primary.measure.key
    measures = sorted(gains.measures, key=lambda measure: measure.key != first)
    pictures = []
    with theme.drawing():
        for unit, title, words in (
            ("nats", "Held-out losses relative to the baseline", "difference in nats per token"),
            ("share", "Benchmarks", "difference in percentage points"),
        ):
            rows = [
                (measure, {arm: gains.final(arm, measure) for arm in gains.arms[1:]}) for measure in _of(measures, unit)
            ]
            if rows:
                pictures.append(charts.forest(f"study-{unit}", title, rows, gains.arms, words))
    return pictures


def _of(measures: list[Measure], unit: str) -> list[Measure]:
    return [measure for measure in measures if measure.unit == unit][:MOST_ROWS]
