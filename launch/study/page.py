"""The page of a study: the primary comparison first, the price beside it, then every other comparison."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

from curriculum.artifact.files import write_text
from launch.study.file import Study
from launch.study.results import Comparison, Results
from launch.study.statistics import ROBUST, Estimate
from train.report import charts, theme
from train.report.comparison import Gain
from train.report.gains import Cell
from train.report.measures import MINUS, measures_of
from train.report.page import templates
from train.report.writing import plain

METHOD = "seeds and documents"
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

    environment = templates(Path(__file__).parent)
    environment.filters["difference"] = _difference
    environment.filters["interval"] = lambda estimate: f"{_number(estimate.low)} to {_number(estimate.high)}"
    return environment.get_template("page.html.j2").render(
        study=study,
        results=results,
        headline=headline(study, results),
        robust=ROBUST,
        named=named,
        rows=sorted(results.secondary, key=lambda one: (one.arm, one.schedule, one.measure)),
        pictures=[Markup(picture.inline()) for picture in _pictures(study, results)],  # noqa: S704 - labels are escaped by the drawing
        light=theme.variables(dark=False),
        dark=theme.variables(dark=True),
    )


def named(study: Study, arm: str, schedule: str) -> str:
    """Return an arm with its schedule, or alone if the study has one schedule."""
    return f"{arm} ({schedule})" if len(study.schedules) > 1 else arm


def headline(study: Study, results: Results) -> str:
    """Return what the primary comparison says, in one sentence."""
    one = results.primary
    what = f"{named(study, one.arm, one.schedule)} compared with "
    what += named(study, study.baseline, results.baseline_schedule)
    value = f"{_difference(one.by_seeds)} on {one.measure}, 95 % interval {_number(one.by_seeds.low)} to "
    value += f"{_number(one.by_seeds.high)} over {one.by_seeds.seeds} seeds"
    if not one.by_seeds.excludes_zero or (one.by_documents is not None and not one.by_documents.excludes_zero):
        return f"{what}: no significant difference ({value})."
    return f"{what} is {'better' if one.better else 'worse'}: {value}."


def _pictures(study: Study, results: Results) -> list[theme.Picture]:
    """Draw the differences of every arm: those of losses in one picture, those of benchmarks in another."""
    everything = [results.primary, *results.secondary]
    arms = list(dict.fromkeys(named(study, one.arm, one.schedule) for one in everything))
    measures = measures_of([dict.fromkeys((one.measure for one in everything), 1.0)])
    measures.sort(key=lambda measure: measure.key != results.primary.measure)
    pictures = []
    with theme.drawing():
        for unit, words in (("nats", "difference in nats per token"), ("share", "difference in percentage points")):
            rows = [
                (
                    measure,
                    {
                        named(study, one.arm, one.schedule): _cell(one)
                        for one in everything
                        if one.measure == measure.key
                    },
                )
                for measure in measures
                if measure.unit == unit
            ]
            if rows:
                title = "Held-out losses relative to the baseline" if unit == "nats" else "Benchmarks"
                pictures.append(charts.forest(f"study-{unit}", title, rows[:MOST_ROWS], ["baseline", *arms], words))
    return pictures


def _cell(one: Comparison) -> Cell:
    """Return a comparison as the report's pictures take it."""
    verdict = "no significant difference" if not one.by_seeds.excludes_zero else "better" if one.better else "worse"
    base, own = fmean(one.baseline.values()), fmean(one.values.values())
    count = one.by_seeds.seeds
    gain = Gain(own - base, one.by_seeds.low, one.by_seeds.high, verdict, METHOD, True, base, own, count, count)
    return Cell(own, list(one.values.values()), None, None, gain, "")


def _difference(estimate: Estimate) -> str:
    return _number(estimate.value)


def _number(value: float) -> str:
    return f"{value:+.4f}".replace("-", MINUS)
