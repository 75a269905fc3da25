"""W&B: offline files, records received by a server, behaviour with a dead server, and replay of a whole run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.torture.network import OFFLINE, holding, nothing_left, problem_of, steps_of, tracked
from tests.torture.wandb_server import BLACK_HOLE, DIES, ERROR, WandbServer
from train.records.run_json import WRITTEN
from train.tracking.metrics import in_order

TRACKER = {"name": "wandb", "start_s": 20.0, "retry_s": 0.5, "finish_s": 20.0}
KEY = "canary" + "0123456789" * 4
ROOT = Path(__file__).parents[3]


def offline_rows(folder, run_id="*"):
    """Return the history of the only offline run with that id in a RUN folder, from `wandb leet inspect`."""
    (run,) = (folder / "wandb").glob(f"offline-run-{run_id}")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(run)]
    out = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    records = [json.loads(line) for line in out.splitlines()]
    return records, [record["history"]["item"] for record in records if record["type"] == "history"]


def test_offline_a_run_is_on_disk_with_its_metric_names(tmp_path):
    done, _ = tracked(tmp_path, TRACKER, {"WANDB_MODE": OFFLINE}, last=7)
    assert done.returncode == 0, done.stderr
    records, rows = offline_rows(tmp_path / "run")
    assert [row["trainer/step"] for row in rows] == list(range(1, 8))
    assert [row["trainer/tokens"] for row in rows] == [100 * step for step in range(1, 8)]
    assert rows[3]["train/loss"] == 1.25
    assert "bucket/low/loss" not in rows[0]
    metrics = [record["metric"] for record in records if record["type"] == "metric"]
    assert {metric.get("name") for metric in metrics} == {"trainer/step", "trainer/tokens", None}
    assert [metric["step_metric"] for metric in metrics if metric.get("glob_name") == "*"] == ["trainer/step"]
    assert not list((tmp_path / "run").glob(".wandb*"))


def test_no_temporary_folder_is_left_by_a_process_without_clean_up(tmp_path):
    program = (
        "import os; from train.tracking.wandb_run import quiet_wandb; wandb = quiet_wandb(); wandb.Artifact; "
        "wandb.Settings(); os._exit(0)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)
    assert not list(tmp_path.iterdir())


def test_a_killed_and_rolled_back_run_resumes_as_the_same_run(tmp_path):
    with WandbServer() as server:
        environment = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        tracked(tmp_path, TRACKER, environment, last=8)
        done, _ = tracked(tmp_path, TRACKER, environment, first=6, last=12)  # from the checkpoint of step 5
        assert done.returncode == 0, done.stderr
        (rows,) = server.rows.values()
    assert [row["trainer/step"] for row in rows] == list(range(1, 13))
    assert list(server.rows) == [(tmp_path / "run" / "wandb_id").read_text().strip()]
    assert steps_of(tmp_path) == list(range(1, 13))
    assert not holding(tmp_path, KEY)
    assert KEY not in done.stdout + done.stderr


@pytest.mark.parametrize("mode", [BLACK_HOLE, ERROR, DIES])
def test_a_dead_network_does_not_affect_the_run(mode, tmp_path):
    assert problem_of(mode, np.random.default_rng(5), tmp_path) is None


@pytest.fixture
def run_folder(tmp_path):
    """A RUN with metrics.jsonl from two attempts: steps 4 and 5 are in it twice."""
    folder = tmp_path / "run"
    folder.mkdir()
    facts = {key: {} for key in WRITTEN}
    (folder / "run.json").write_text(json.dumps({**facts, "arm": "pdpc", "identity": {"seed": 3}}))
    (folder / "config.json").write_text(json.dumps({"tracker": {"name": "none", "project": "p", "group": "g"}}))
    steps = [1, 2, 3, 4, 5, 4, 5, 6]
    records = [{"kind": "train", "step": s, "tokens": 10 * s, "train/loss": 1.0 / (i + 1)} for i, s in enumerate(steps)]
    records.insert(5, {"kind": "stage", "stage": 1, "step": 5, "tokens": 50, "val/loss": 9.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def replayed(folder, environment):
    command = [sys.executable, "-m", "launch.cli", "report", "--wandb", str(folder)]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    marks = {"PYTHONPATH": str(ROOT), "HOME": str(folder), "PDPC_CASE": str(folder)}
    return subprocess.run(
        command, cwd=ROOT, env={**inherited, **marks, **environment}, capture_output=True, text=True, timeout=120
    )


def test_offline_replay_is_one_continuous_curve_and_happens_once(run_folder):
    for expected in ("records of", "already"):
        done = replayed(run_folder, {"WANDB_MODE": OFFLINE})
        assert done.returncode == 0, done.stderr
        assert expected in done.stderr
    _, rows = offline_rows(run_folder)
    assert [row["trainer/step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[4]["train/loss"] == pytest.approx(1 / 7)
    assert rows[4]["val/loss"] == 9.0


def test_two_offline_attempts_are_replayed_as_one_curve(tmp_path):
    environment, folder = {"WANDB_MODE": OFFLINE}, tmp_path / "run"
    tracked(tmp_path, TRACKER, environment, last=8)
    tracked(tmp_path, TRACKER, environment, first=6, last=12)  # killed, and resumed from the checkpoint of step 5
    own_id = (folder / "wandb_id").read_text().strip()
    assert len(list((folder / "wandb").glob(f"offline-run-*-{own_id}"))) == 2  # steps 6 to 8 are in both
    (folder / "run.json").write_text(json.dumps({**{key: {} for key in WRITTEN}, "arm": "pdpc"}))
    done = replayed(folder, environment)
    assert done.returncode == 0, done.stderr
    _, rows = offline_rows(folder, f"*-{own_id}-*")
    assert [row["trainer/step"] for row in rows] == list(range(1, 13))
    assert [row["train/loss"] for row in rows] == [pytest.approx(5.0 / step) for step in range(1, 13)]


def test_replaying_twice_online_duplicates_nothing_and_a_grown_file_is_a_new_run(run_folder):
    with WandbServer() as server:
        environment = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        for _ in range(2):
            done = replayed(run_folder, environment)
            assert done.returncode == 0, done.stderr
        (rows,) = server.rows.values()
        assert [row["trainer/step"] for row in rows] == [1, 2, 3, 4, 5, 6]
        with open(run_folder / "metrics.jsonl", "a") as file:
            file.write('{"kind": "train", "step": 7, "tokens": 70, "train/loss": 0.1}\n')
        assert replayed(run_folder, environment).returncode == 0
        assert sorted(len(rows) for rows in server.rows.values()) == [6, 7]
    assert KEY not in done.stdout + done.stderr


def test_a_replay_without_records_says_what_to_do(run_folder):
    command = {"WANDB_MODE": OFFLINE}
    (run_folder / "metrics.jsonl").unlink()
    done = replayed(run_folder, command)
    assert done.returncode == 2
    assert "metrics.jsonl has no records yet" in done.stderr
    assert nothing_left(run_folder)


def test_order_of_records():
    records = [{"step": s, "kind": k, "n": n} for n, (s, k) in enumerate([(2, "train"), (2, "stage"), (1, "train")])]
    assert [record["n"] for record in in_order([*records, {"step": 1, "kind": "train", "n": 3}])] == [3, 0, 1]


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (
            {},
            "W&B is offline (there is no WANDB_API_KEY and no login in netrc): its records are in /r un/wandb/offline",
        ),
        ({"WANDB_MODE": "offline"}, "W&B is offline (WANDB_MODE=offline)"),
        ({"WANDB_MODE": "disabled"}, "W&B is disabled (WANDB_MODE=disabled)"),
        ({"WANDB_API_KEY": KEY}, None),
    ],
)
def test_the_log_says_where_records_go_when_not_online(environment, said, tmp_path, monkeypatch, caplog):
    from types import SimpleNamespace

    from train.tracking import TrackerSettings, wandb_run

    caplog.set_level("INFO")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    begun = SimpleNamespace(dir="/r un/wandb/offline-run-1/files", define_metric=lambda *_, **__: None)
    fake = SimpleNamespace(init=lambda **_: begun, Settings=lambda **_: None)
    monkeypatch.setattr(wandb_run, "quiet_wandb", lambda: fake)
    wandb_run.WandbRun(TrackerSettings(), tmp_path, "a", {}, "id").connect()
    assert (said in caplog.text) if said else not caplog.text
    if said and "offline" in said:
        assert "wandb sync '/r un/wandb/offline-run-1'" in caplog.text
    assert KEY not in caplog.text
