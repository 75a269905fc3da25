"""A workspace and a report of two arms, made on a server of ours; offline a file that the same command sends later."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.torture.network import OFFLINE, holding, nothing_left
from tests.torture.wandb_server import WandbServer
from train.runfolder import WRITTEN
from train.tracking import workspace
from train.tracking.panels import STEP, TOKENS
from train.tracking.workspace import FILE

KEY = "canary" + "0123456789" * 4
ROOT = Path(__file__).parents[3]
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
def test_offline_then_online_the_same_command_makes_one_workspace_and_one_report(arms, tmp_path):
    done = sent(arms, {"WANDB_MODE": OFFLINE}, tmp_path)
    assert done.returncode == 0, done.stderr
    path = arms["shuffled"] / FILE
    assert f"cannot be made offline: its definition is {path}" in done.stderr
    assert json.loads(path.read_text())["made"] == {}
    with WandbServer() as server:
        for said in ("W&B workspace: http", "W&B has the workspace already: http"):
            done = sent(arms, {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}, tmp_path)
            assert done.returncode == 0, done.stderr
            assert said in done.stderr
        logged = {name for rows in server.rows.values() for row in rows for name in row}
        ids, (view, report) = sorted(server.rows), server.views
    assert (view["type"], view["displayName"], view["entityName"], view["projectName"]) == (
        *("project-view", "PDPC"),
        *("us", "p"),
    )
    assert (report["type"], report["displayName"]) == ("runs", "PDPC: shuffled, pdpc")
    for panels in (panels_of_workspace(view["spec"]), panels_of_report(report["spec"])):
        lines = [panel["config"] for panel in panels if panel["viewType"] == "Run History Line Plot"]
        shown = {metric: config["xAxis"] for config in lines for metric in config["metrics"]}
        assert set(shown) == {name for name in logged if "/" in name} - {STEP, TOKENS}
        assert (shown["train/loss"], shown["val/loss"], shown["time/step_s"]) == (TOKENS, TOKENS, STEP)
        assert ["curriculum/planned/low", "curriculum/realised/low"] in [config["metrics"] for config in lines]
    for runs in (view["spec"]["section"]["runSets"][0], report["spec"]["blocks"][3]["metadata"]["runSets"][0]):
        assert all(f'"{one}"' in json.dumps(runs["filters"]) for one in ids)
    assert len(ids) == 2
    assert not any(holding(tmp_path / arm, KEY) for arm in arms)
    assert KEY not in done.stdout + done.stderr
    assert nothing_left(tmp_path)


@EXTRA
def test_a_workspace_that_is_not_taken_is_told_with_its_file(arms, tmp_path):
    with WandbServer() as server:
        answer = server.answer
        server.answer = lambda query: {} if "upsertView" in query["query"] else answer(query)
        done = sent(arms, {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}, tmp_path)
    assert done.returncode == 1
    assert "W&B took the runs, but not the workspace" in done.stderr
    assert f"its definition is {arms['shuffled'] / FILE}; run the same command again" in done.stderr
    assert nothing_left(tmp_path)


def test_without_its_package_nothing_is_sent_and_the_extra_is_named(arms, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(workspace, "find_spec", lambda name: None)
    monkeypatch.setattr(workspace, "replay", lambda folder: pytest.fail("sent"))
    with pytest.raises(ValueError, match=r"pip install 'pdpc\[workspace\]'"):
        workspace.replay_with_workspace(arms, "shuffled")


def test_runs_of_two_projects_are_refused(arms, tmp_path, monkeypatch):
    monkeypatch.setattr(workspace, "replay", lambda folder: pytest.fail("sent"))
    other = {**arms, "third": write_run(tmp_path / "third", "third", project="q")}
    with pytest.raises(ValueError, match=r"belong to several .*pdpc your own/p, third your own/q"):
        workspace.replay_with_workspace(other, "shuffled")


def test_what_was_made_and_cannot_be_read_is_named(arms, monkeypatch):
    (arms["shuffled"] / FILE).write_text("{")
    monkeypatch.setattr(workspace, "replay", lambda folder: workspace.Replayed("a", "i", "p", None, frozenset()))
    with pytest.raises(ValueError, match=r"wandb_workspace\.json cannot be read .* remove it"):
        workspace.replay_with_workspace(arms, "shuffled")
