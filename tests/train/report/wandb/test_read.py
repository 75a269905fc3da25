"""A run is read from W&B as records like those in metrics.jsonl."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.torture.network import nothing_left
from tests.torture.wandb_server import BLACK_HOLE, DENIED, REFUSE, WandbServer
from train.report.wandb.read import _records, read_wandb_run

KEY = "canary" + "0123456789" * 4
ROOT = Path(__file__).parents[4]
READ = """
import json, os, sys, time
from dataclasses import asdict
from train.report.wandb.read import quiet_wandb, read_wandb_run
quiet_wandb()
began = time.monotonic()
for spec in sys.argv[2:]:
    try:
        print(json.dumps(asdict(read_wandb_run(spec, read_s=float(sys.argv[1])))), flush=True)
    except (ValueError, OSError) as error:
        print(type(error).__name__, error, flush=True)
print(time.monotonic() - began)
"""
ROWS = [
    {"_step": 1, "_timestamp": 7.0, "_runtime": 1, "trainer/step": 1, "trainer/tokens": 10, "train/loss": 4.0},
    {"_step": 2, "trainer/step": 2, "trainer/tokens": 20, "train/loss": "NaN", "val/loss": 3.0, "stage": 1,
     "bench/a/acc": 0.5, "time/evaluation_s": 2.0, "optim/lr": None},
    {"_step": 3, "trainer/step": 3, "trainer/tokens": 30, "val/loss": 2.0, "stage": 2},
    {"_step": 4, "something": 1},
]  # fmt: skip
RECORDS = [
    {"kind": "train", "step": 1, "tokens": 10, "train/loss": 4.0},
    {"kind": "train", "step": 2, "tokens": 20, "train/loss": None, "nonfinite": {"train/loss": "nan"}},
    {"kind": "stage", "step": 2, "tokens": 20, "val/loss": 3.0, "stage": 1, "bench/a/acc": 0.5,
     "time/evaluation_s": 2.0},
    {"kind": "stage", "step": 3, "tokens": 30, "val/loss": 2.0, "stage": 2},
]  # fmt: skip


def read(folder, server, *specs, read_s=60.0):
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    marks = {"PYTHONPATH": str(ROOT), "HOME": str(folder), "PDPC_CASE": str(folder)}
    place = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
    done = subprocess.run(
        [sys.executable, "-c", READ, str(read_s), *specs],
        env={**inherited, **marks, **place},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert KEY not in done.stdout + done.stderr
    assert nothing_left(folder)
    *found, took_s = done.stdout.splitlines()
    return found, float(took_s)


def test_rows_become_records():
    assert list(_records(ROWS)) == RECORDS
    assert next(_records([{**ROWS[0], "train/loss": float("inf")}]))["nonfinite"] == {"train/loss": "inf"}


def test_a_run_is_read_with_its_name_and_its_config(tmp_path):
    with WandbServer() as server:
        server.runs["r1"] = {"displayName": "pdpc", "config": json.dumps({"seed": {"value": 3}})}
        server.rows["r1"] = ROWS
        (run, other), _ = read(tmp_path, server, "wandb:us/p/r1", "wandb:us/p/nowhere")
    assert json.loads(run) == {"name": "pdpc", "config": {"seed": 3}, "records": RECORDS}
    assert other.startswith("ValueError wandb:us/p/nowhere is not in W&B")


@pytest.mark.parametrize(("mode", "part"), [(BLACK_HOLE, "cannot reach"), (REFUSE, "cannot reach"), (DENIED, "key")])
def test_a_dead_network_times_out_with_a_message(mode, part, tmp_path):
    limit_s = 60.0 if mode == DENIED else 2.0  # that one answers, if slowly on a loaded machine
    with WandbServer(mode) as server:
        (message,), took_s = read(tmp_path, server, "wandb:us/p/r1", read_s=limit_s)
    assert took_s < limit_s + 30
    assert message.startswith("ValueError W&B rejected" if mode == DENIED else "OSError cannot reach W&B")
    assert part in message


def test_a_malformed_spec_and_a_missing_key_are_rejected(monkeypatch, tmp_path):
    for spec in ("us/p/r", "wandb:us/p", "wandb:us/p/r/x", "wandb:us/p/ r", ""):
        with pytest.raises(ValueError, match="write wandb:ENTITY/PROJECT/RUN_ID"):
            read_wandb_run(spec)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(ValueError, match="set WANDB_API_KEY"):
        read_wandb_run("wandb:us/p/r")
