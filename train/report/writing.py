"""The numbers of the report as JSON and CSV."""

import csv
import io
import json
from dataclasses import asdict
from typing import Any

from curriculum.artifact.files import code_version
from curriculum.work.printable import csv_cell
from train.report.arms import Arm
from train.report.contents import Report
from train.report.gains import Cell
from train.report.records import Run

FORMAT_VERSION = 3
COLUMNS = (
    "measure", "label", "group", "unit", "lower_is_better", "arm", "stage", "step", "tokens", "seeds",
    "value", "stderr", "change", "change_low", "change_high", "change_verdict", "change_method",
    "difference", "low", "high", "verdict", "method", "paired_seeds", "compared_seeds", "baseline_seeds",
    "compared_value", "baseline_value", "p", "corrected_p", "note", "error",
)  # fmt: skip


def rows(report: Report) -> list[dict[str, Any]]:
    """Return one row per measure, point and arm, with keys COLUMNS; losses in nats per token, shares from 0 to 1."""
    result = []
    for measure in report.gains.measures:
        for point, cells in zip(report.gains.points, report.gains.cells[measure.key], strict=True):
            for arm, cell in cells.items():
                record = point.evaluated[arm][0].record
                row = {
                    "measure": measure.key,
                    "label": measure.label,
                    "group": measure.group,
                    "unit": measure.unit,
                    "lower_is_better": measure.lower_is_better,
                    "arm": arm,
                    "stage": record.get("stage"),
                    "step": record["step"],
                    "tokens": record["tokens"],
                }
                result.append(row | _cell(cell))
    return result


def _cell(cell: Cell) -> dict[str, Any]:
    """Return the columns of one cell; intervals are 95 % intervals of the differences."""
    change, gain = cell.change, cell.gain
    return {
        "seeds": cell.seeds,
        "value": cell.value,
        "stderr": cell.stderr,
        "change": change and change.value,
        "change_low": change and change.low,
        "change_high": change and change.high,
        "change_verdict": change.verdict if change else "",
        "change_method": change.method if change else "",
        "difference": gain and gain.value,
        "low": gain and gain.low,
        "high": gain and gain.high,
        "verdict": gain.verdict if gain else "",
        "method": gain.method if gain else "",
        "paired_seeds": gain and gain.paired,
        "compared_seeds": gain and gain.seeds,
        "baseline_seeds": gain and gain.base_seeds,
        "compared_value": gain and gain.own,
        "baseline_value": gain and gain.base,
        "p": gain and gain.p,
        "corrected_p": gain and gain.corrected,
        "note": "; ".join([*gain.notes, *([gain.withheld] if gain.withheld else [])]) if gain else cell.note,
        "error": cell.error,
    }


def as_csv(report: Report) -> str:
    """Return the table of gains as CSV, one row per measure, point and arm; no cell of it is a formula."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows(report))
    return stream.getvalue()


def as_json(report: Report) -> str:
    """Return all numbers of the page as JSON; null for missing values."""
    value = {
        "format_version": FORMAT_VERSION,
        "code_version": code_version(),
        "title": report.title,
        "baseline": report.baseline,
        "about": dict(report.about),
        "headlines": report.headlines,
        "warnings": report.warnings,
        "notes": report.notes,
        "missing": report.missing,
        "arms": {arm.name: _arm(arm) for arm in report.arms},
        "places": {run.name: str(run.folder) for run in report.runs},
        "gains": rows(report),
        "seed_values": _seed_values(report),
        "differences": [asdict(difference) for difference in report.differences],
        "twins": [asdict(one) for one in report.twins],
        "throughput": [asdict(speed) for speed in report.throughputs],
        "plans": {arm: _plan(report, arm) for arm in report.plans},
        "exposures": {arm: _exposure(report, arm) for arm in report.exposures},
        "source_mix": report.mix,
        "pd_by_source": _preferences(report),
    }
    return json.dumps(plain(value), indent=1, sort_keys=True, allow_nan=False) + "\n"


def _arm(arm: Arm) -> dict[str, Any]:
    return {"tokens": arm.tokens, "finished": arm.finished, "seeds": len(arm.runs), "runs": [_run(r) for r in arm.runs]}


def _run(run: Run) -> dict[str, Any]:
    kept = {key: run.info.get(key) for key in ("parameters", "world_size", "fingerprints", "versions")}
    facts = {"name": run.name, "seed": run.seed, "tokens": run.tokens}
    return kept | facts | {"finished": run.finished}


def _seed_values(report: Report) -> list[dict[str, Any]]:
    """Return the value of each seed, for arms with several seeds."""
    return [
        {"measure": measure.key, "arm": arm, "tokens": point.tokens, "values": cell.values}
        for measure in report.gains.measures
        for point, cells in zip(report.gains.points, report.gains.cells[measure.key], strict=True)
        for arm, cell in cells.items()
        if report.seeds(arm) > 1
    ]


def _plan(report: Report, arm: str) -> dict[str, Any]:
    view = report.plans[arm]
    tables = {"progress": view.progress.tolist(), "planned": view.planned.tolist(), "realised": view.realised.tolist()}
    return {"buckets": view.buckets, "origin": view.origin} | tables


def _exposure(report: Report, arm: str) -> dict[str, Any]:
    view = report.exposures[arm]
    return {
        "progress": view.progress.tolist(),
        "above_median": None if view.high is None else view.high.tolist(),
        "sources": report.sources,
        "source_shares": None if view.sources is None else view.sources.tolist(),
        "samples": view.content[0],
    }


def _preferences(report: Report) -> dict[str, Any] | None:
    view = report.preferences
    if view is None:
        return None
    whole = ("median", "mean", "deviation", "negative", "explained")
    return {name: getattr(view, name) for name in whole} | {
        "edges": view.edges.tolist(),
        "sources": [
            {
                "name": name,
                "samples": view.samples[index],
                "median": view.medians[index],
                "above_median": view.above[index],
                "histogram": view.histogram[index].tolist(),
            }
            for index, name in enumerate(view.sources)
        ],
    }


def plain(value: Any) -> Any:
    """Convert a value to plain JSON types: non-finite numbers become null."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
