"""A W&B workspace and a W&B report of replayed runs, laid out from the metrics that the runs logged.

The definition is stored in RUN/wandb_workspace.json of the first run: a plain list of sections and plots, and the URLs
of what was created from it. A definition is created once. Creating it needs the network and wandb-workspaces.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from curriculum.artifact.files import fingerprint_of, read_text, write_text
from train.report.wandb.api import within
from train.report.wandb.replay import Replayed, replay, wandb_settings
from train.tracking.background import error_line
from train.tracking.panels import sections_of
from train.tracking.wandb_run import mode, quiet_wandb

log = logging.getLogger(__name__)

FILE = "wandb_workspace.json"
NAME = "PDPC"
"""Name of the workspace in W&B."""
SEND_S = 60.0
"""Timeout for creating the workspace or the report, seconds."""

Definition = dict[str, Any]


def replay_with_workspace(folders: Mapping[str, Path], baseline: str) -> Path:
    """Replay runs, by arm, and create one workspace and one report for them; return the path of the definition.

    Offline, only the definition is written. Raises ValueError before sending anything if wandb-workspaces is missing or
    the runs belong to several W&B projects; later, whatever `replay` raises, and OSError if W&B accepted only the runs.
    """
    _check(folders)
    runs = {arm: replay(folder) for arm, folder in folders.items()}
    path = next(iter(folders.values())) / FILE
    definition = define(runs, baseline)
    kept = _made(path)
    _write(path, definition, kept)
    if mode() == "offline":
        log.warning(
            "a W&B workspace cannot be created offline: its definition is %s; rerun the same command with network "
            "access and an API key to send the runs and the workspace",
            path,
        )
        return path
    made = kept.setdefault(fingerprint_of(definition), {})
    for kind, make in (("workspace", _make_workspace), ("report", _make_report)):
        if kind in made:
            log.info("W&B already has the %s: %s", kind, made[kind])
            continue
        try:
            made[kind] = within(SEND_S, partial(make, definition))
        except Exception as error:
            raise OSError(
                f"W&B accepted the runs, but not the {kind} ({error_line(error)}): its definition is {path}; run the "
                "same command again"
            ) from None
        _write(path, definition, kept)
        log.info("W&B %s: %s", kind, made[kind])
    return path


def define(runs: Mapping[str, Replayed], baseline: str) -> Definition:
    """Return the definition for runs by arm; it contains every metric that at least one of them logged."""
    first = next(iter(runs.values()))
    names = frozenset[str]().union(*(run.names for run in runs.values()))
    arms = ", ".join(run.arm for run in runs.values())
    return {
        "format": 1,
        "entity": first.entity,
        "project": first.project,
        "name": NAME,
        "report": f"{NAME}: {arms}"[:128],
        "runs": {arm: run.id for arm, run in runs.items()},
        "baseline": baseline if baseline in runs and len(runs) > 1 else None,
        "sections": [asdict(section) for section in sections_of(names)],
    }


def _check(folders: Mapping[str, Path]) -> None:
    if mode() != "offline" and find_spec("wandb_workspaces") is None:
        raise ValueError("workspace=true needs the package wandb-workspaces: pip install 'pdpc[workspace]'")
    settings = {arm: wandb_settings(folder) for arm, folder in folders.items()}
    places = {arm: f"{one.entity or 'your own'}/{one.project}" for arm, one in settings.items()}
    if len(set(places.values())) > 1:
        listed = ", ".join(f"{arm} {place}" for arm, place in places.items())
        raise ValueError(
            f"a W&B workspace shows runs of one project, but these belong to several ({listed}): give the runs of one "
            "project at a time, or leave out workspace=true"
        )


def _made(path: Path) -> dict[str, dict[str, str]]:
    """Return the URLs of what was created so far, by the digest of the definition."""
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(read_text(path))["made"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error!r}): remove it to create both again") from error


def _write(path: Path, definition: Definition, made: Mapping[str, Mapping[str, str]]) -> None:
    write_text(path, json.dumps({**definition, "made": made}, indent=1) + "\n")


def _make_workspace(definition: Definition) -> str:
    """Create the workspace; return its URL."""
    quiet_wandb()
    import wandb_workspaces.reports.v2 as reports
    import wandb_workspaces.workspaces as workspaces

    ids, baseline = definition["runs"], definition["baseline"]
    view = workspaces.Workspace(
        entity=definition["entity"],
        project=definition["project"],
        name=definition["name"],
        sections=[
            workspaces.Section(
                name=section["title"],
                is_open=True,
                panels=[
                    reports.LinePlot(title=plot["title"], x=section["x"], y=list(plot["metrics"]))
                    for plot in section["plots"]
                ],
            )
            for section in definition["sections"]
        ],
        runset_settings=workspaces.RunsetSettings(
            filters=_filter(definition), baseline_run=ids[baseline] if baseline else None
        ),
    )
    return str(view.save().url)


def _make_report(definition: Definition) -> str:
    """Create the report; return its URL."""
    quiet_wandb()
    import wandb_workspaces.reports.v2 as reports

    def grid(panels: list[Any]) -> Any:
        runs = reports.Runset(
            entity=definition["entity"], project=definition["project"], name="arms", filters=_filter(definition)
        )
        return reports.PanelGrid(runsets=[runs], panels=panels)

    ids, baseline = definition["runs"], definition["baseline"]
    arms = ", ".join(f"{arm} (run {ids[arm]}{', the baseline' * (arm == baseline)})" for arm in ids)
    blocks: list[Any] = [reports.P(text=f"Arms: {arms}. Curves are replayed from metrics.jsonl, each step once.")]
    for section in definition["sections"]:
        panels = [
            reports.LinePlot(
                title=plot["title"],
                x=section["x"],
                y=list(plot["metrics"]),
                layout=reports.Layout(x=8 * (place % 3), y=6 * (place // 3), w=8, h=6),
            )
            for place, plot in enumerate(section["plots"])
        ]
        blocks += [reports.H2(text=section["title"]), grid(panels)]
    blocks += [
        reports.H2(text="settings that differ"),
        grid([reports.RunComparer(diff_only="split", layout=reports.Layout(w=24, h=9))]),
    ]
    report = reports.Report(
        entity=definition["entity"],
        project=definition["project"],
        title=definition["report"],
        blocks=blocks,
        width="fluid",
    )
    return str(report.save().url)


def _filter(definition: Definition) -> str:
    """Return the filter for only the replayed runs, in the syntax of wandb-workspaces."""
    return f"Metric('ID') in {sorted(definition['runs'].values())}"
