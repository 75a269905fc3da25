"""A workspace and a report of two arms, created on a local server; offline, a file that a later run sends."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.torture.network import OFFLINE, holding, nothing_left
from tests.torture.wandb_server import WandbServer
from train.records.run_json import WRITTEN
from train.report.settings import ReportSettings
from train.report.wandb import workspace
from train.report.wandb.workspace import FILE
from train.tracking.panels import STEP, TOKENS

KEY = "canary" + "0123456789" * 4
ROOT = Path(__file__).parents[4]
EXTRA = pytest.mark.skipif(find_spec("wandb_workspaces") is None, reason="pip install 'pdpc[workspace]'")


def write_run(folder, arm, project="p"):
    (folder / "run").mkdir(parents=True)
    facts = {key: {} for key in WRITTEN}
    (folder / "run" / "run.json").write_text(json.dumps({**facts, "arm": arm, "identity": {"seed": 3}}))
    (folder / "run" / "config.json").write_text(json.dumps({"tracker": {"name": "none", "project": project}}))
    values = {"train/loss": 1.5, "time/step_s": 0.5}
    records = [{"kind": "train", "step": step, "tokens": 10 * step, **values} for step in (1, 2)]
    records[1] |= {"curriculum/planned/low": 0.5, "curriculum/realised/low": 0.4, "bucket/low/loss": None}
    records.append({"kind": "stage", "stage": 1, "step": 2, "tokens": 20, "val/loss": 3.0, f"bench/{arm}/acc": 0.5})
    (folder / "run" / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder / "run"


@pytest.fixture
def arms(tmp_path):
    return {arm: write_run(tmp_path / arm, arm) for arm in ("shuffled", "pdpc")}


def sent(arms, environment, home):
    command = [sys.executable, "-m", "launch.cli", "report", "--wandb", "--workspace"]
    command += [f"runs.{arm}={folder}" for arm, folder in arms.items()]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    marks = {"PYTHONPATH": str(ROOT), "HOME": str(home), "PDPC_CASE": str(home)}
    return subprocess.run(
        command, cwd=ROOT, env={**inherited, **marks, **environment}, capture_output=True, text=True, timeout=120
    )


def panels_of_workspace(spec):
    return [panel for part in spec["section"]["panelBankConfig"]["sections"] for panel in part["panels"]]


def panels_of_report(spec):
    grids = [block["metadata"] for block in spec["blocks"] if block["type"] == "panel-grid"]
    return [panel for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]


@EXTRA
def test_rerunning_the_command_creates_what_was_not_accepted(arms, tmp_path):
    path = arms["shuffled"] / FILE
    with WandbServer() as server:
        environment, answer = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}, server.answer
        server.answer = lambda query: {} if "upsertView" in query["query"] else answer(query)
        done = sent(arms, environment, tmp_path)
        assert done.returncode == 1
        assert "W&B accepted the runs, but not the workspace" in done.stderr
        assert f"its definition is {path}; run the same command again" in done.stderr
        server.answer = answer
        done = sent(arms, environment, tmp_path)
        assert done.returncode == 0, done.stderr
        assert "W&B workspace: http" in done.stderr
        logged = {name for rows in server.rows.values() for row in rows for name in row}
        ids, (view, report) = sorted(server.rows), server.views
    assert (view["type"], view["displayName"]) == ("project-view", "PDPC")
    assert (report["type"], report["displayName"]) == ("runs", "PDPC: shuffled, pdpc")
    assert {(one["entityName"], one["projectName"]) for one in (view, report)} == {("us", "p")}
    for panels in (panels_of_workspace(view["spec"]), panels_of_report(report["spec"])):
        lines = [panel["config"] for panel in panels if panel["viewType"] == "Run History Line Plot"]
        shown = {metric: config["xAxis"] for config in lines for metric in config["metrics"]}
        assert set(shown) == {name for name in logged if "/" in name} - {STEP, TOKENS}
        assert (shown["train/loss"], shown["val/loss"], shown["time/step_s"]) == (TOKENS, TOKENS, STEP)
        assert ["curriculum/planned/low", "curriculum/realised/low"] in [config["metrics"] for config in lines]
    grid = next(block for block in report["spec"]["blocks"] if block["type"] == "panel-grid")
    for runs in (view["spec"]["section"]["runSets"][0], grid["metadata"]["runSets"][0]):
        assert all(f'"{one}"' in json.dumps(runs["filters"]) for one in ids)
    assert len(ids) == 2
    assert set(next(iter(json.loads(path.read_text())["made"].values()))) == {"workspace", "report"}
    assert not any(holding(tmp_path / arm, KEY) for arm in arms)
    assert KEY not in done.stdout + done.stderr
    assert nothing_left(tmp_path)


@pytest.fixture
def made(monkeypatch):
    """Accept runs without a network; return the workspaces and reports created, by the runs in them."""
    found, version = [], {"": "1"}

    def replay(folder):
        return workspace.Replayed(
            folder.parent.name, folder.parent.name + version[""], "p", None, frozenset(["val/loss"])
        )

    def make(definition):
        found.append(sorted(definition["runs"].values()))
        return f"https://{len(found)}"

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(workspace, "find_spec", lambda name: name)
    monkeypatch.setattr(workspace, "replay", replay)
    monkeypatch.setattr(workspace, "_make_workspace", make)
    monkeypatch.setattr(workspace, "_make_report", make)
    return found, version


def test_offline_only_the_definition_is_written(arms, made, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", OFFLINE)
    monkeypatch.setattr(workspace, "find_spec", lambda name: None)
    path = workspace.replay_with_workspace(arms, "shuffled")
    assert f"cannot be created offline: its definition is {path}" in caplog.text
    kept = json.loads(path.read_text())
    assert (kept["made"], kept["project"], kept["baseline"], made[0]) == ({}, "p", "shuffled", [])
    assert [plot["metrics"] for section in kept["sections"] for plot in section["plots"]] == [["val/loss"]]


def test_the_same_command_creates_nothing_twice_but_a_grown_run_gives_a_new_pair(arms, made, caplog):
    caplog.set_level("INFO")
    found, version = made
    for _ in range(2):
        path = workspace.replay_with_workspace(arms, "shuffled")
    assert found == [["pdpc1", "shuffled1"]] * 2
    assert "W&B already has the report: https://2" in caplog.text
    version[""] = "2"
    workspace.replay_with_workspace(arms, "shuffled")
    assert found[2:] == [["pdpc2", "shuffled2"]] * 2
    assert len(json.loads(path.read_text())["made"]) == 2


def test_without_the_package_nothing_is_sent_and_the_extra_is_named(arms, made, monkeypatch):
    monkeypatch.setattr(workspace, "find_spec", lambda name: None)
    monkeypatch.setattr(workspace, "replay", lambda folder: pytest.fail("sent"))
    with pytest.raises(ValueError, match=r"pip install 'pdpc\[workspace\]'"):
        workspace.replay_with_workspace(arms, "shuffled")


def test_a_workspace_requires_wandb():
    with pytest.raises(ValueError, match="add wandb=true"):
        ReportSettings(runs={"run": "r"}, workspace=True)


def test_runs_of_two_projects_are_rejected(arms, made, tmp_path, monkeypatch):
    monkeypatch.setattr(workspace, "replay", lambda folder: pytest.fail("sent"))
    other = {**arms, "third": write_run(tmp_path / "third", "third", project="q")}
    with pytest.raises(ValueError, match=r"belong to several .*pdpc your own/p, third your own/q"):
        workspace.replay_with_workspace(other, "shuffled")


def test_an_unreadable_definition_is_named(arms, made):
    (arms["shuffled"] / FILE).write_text("{")
    with pytest.raises(ValueError, match=r"wandb_workspace\.json cannot be read .* remove it"):
        workspace.replay_with_workspace(arms, "shuffled")
