"""The whole road in one command: undisturbed, a second time, and killed on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from curriculum.order.order import Order
from curriculum.tokens.tokens import Tokens
from train.export.export import newest_checkpoint
from train.records.consumed import read_consumed
from train.resume.runfolder import read_run
from train.tracking import read_metrics

ROOT = Path(__file__).parents[3]
ARMS = ("shuffled", "pdpc")
SIZE = ("processes=1", "threads=1", "seq_len=32", "vocabulary=300", "batch_size=8", "stages=2", "questions=8")
HELD_OUT = ("validation_fraction=0.2", "reference_fraction=0.2")


def write_long_text(folder):
    """Write two sources whose documents are long enough for a benchmark question of 88 tokens."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    words = ["the", "cat", "dog", "sees", "likes", "a", "tree", "house", "and", "then", "runs", "sleeps"]
    with open(folder / "text.jsonl", "w") as file:
        for number in range(160):
            size = int(rng.integers(60, 120))
            if number % 2 == 0:
                text = " ".join(words[(place * 5 + int(rng.integers(0, 2))) % len(words)] for place in range(size))
            else:
                text = " ".join("".join(chr(97 + int(c)) for c in rng.integers(0, 26, 5)) for _ in range(size // 2))
            file.write(json.dumps({"text": text, "source": ("easy", "hard")[number % 2]}) + "\n")


def start(folder, environment):
    """Start a demo in a process group of its own."""
    words = [f"text={folder.parent / 'text'}", f"output={folder}", *SIZE, *HELD_OUT]
    command = [sys.executable, "-m", "launch.cli", "demo", *words]
    with open(folder.with_suffix(".log"), "a") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def finish(process, folder):
    code = process.wait(timeout=400)
    assert code == 0, folder.with_suffix(".log").read_text()


def wait_until(there, process, folder):
    deadline = time.monotonic() + 400
    while not there():
        assert process.poll() is None, folder.with_suffix(".log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def evaluated(folder):
    """Has the run in `folder` put its first stage on record?"""
    path = folder / "metrics.jsonl"
    return path.exists() and any(record["kind"] == "stage" for record in read_metrics(path))


def changed(folder):
    """Return the time of the last change of every file of every artifact, run and export; the report is a view."""
    return {
        path.relative_to(folder): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.parent != folder
    }


def numbers(folder):
    """Return the report without what no two runs share: speed, dates, and the place where the arms lie."""
    report = json.loads((folder / "report.json").read_text())
    return {
        key: value
        for key, value in report.items()
        if key not in ("about", "throughput", "config_differences", "places")
    }


def test_the_whole_road(contained_pair, power_cut, tmp_path):
    """Two demos of one text side by side: one that nobody disturbs, and one that is killed twice and goes on.

    One test, because a second worker would have to go the road again for a part of it.
    """
    whole, killed = places = [tmp_path / name / "demo" for name in ("undisturbed", "killed")]
    for place in places:
        write_long_text(place.parent / "text")
    quiet, harmed = contained_pair
    undisturbed = start(whole, quiet)
    killed_twice(killed, harmed, power_cut)
    finish(undisturbed, whole)

    check_page(whole)
    for arm in ARMS:
        check_arm(whole, arm)
    check_export(whole)
    assert numbers(killed) == numbers(whole)
    for place in places:
        check_nothing_is_left(place)

    before, report = changed(whole), (whole / "report.json").read_text()
    began = os.times().children_user
    finish(start(whole, quiet), whole)
    assert os.times().children_user - began < 30
    assert changed(whole) == before
    assert (whole / "report.json").read_text() == report
    assert not (Path(quiet["HOME"]) / "hf").exists()


def killed_twice(folder, environment, power_cut):
    """Run a demo, kill its process group when SCORES appear, run it, cut the power in an arm's second stage, run it."""
    process = start(folder, environment)
    wait_until((folder / "scores").is_dir, process, folder)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = {path: when for path, when in changed(folder).items() if path.parts[0] != "scores.chunks"}  # joined by then

    process = start(folder, environment)
    arm = folder / "run_shuffled"
    wait_until(lambda: evaluated(arm), process, folder)
    power_cut(environment)
    assert process.wait() == -signal.SIGKILL
    assert read_run(arm)["status"] == "running"
    order = Order.open(folder / "order_shuffled")
    assert newest_checkpoint(arm).name == f"step_{order.stage_ends[0]:08d}"

    finish(start(folder, environment), folder)
    after = changed(folder)
    assert {path: after[path] for path in kept} == kept
    log = folder.with_suffix(".log").read_text()
    assert f"scores {folder / 'scores'} are complete and match the settings: reused" in log
    assert f"resumed from step {order.stage_ends[0]} of {order.steps}" in log


def check_page(folder):
    """The page is there, and both arms are on it at equal tokens: all of them."""
    page = (folder / "report.html").read_text()
    assert all(arm in page for arm in ARMS)
    arms = json.loads((folder / "report.json").read_text())["arms"]
    assert set(arms) == set(ARMS)
    tokens = Tokens.open(folder / "tokens")
    assert {arm["tokens"] for arm in arms.values()} == {int(tokens.real_tokens(np.arange(len(tokens))).sum())}
    models = [json.loads((folder / f"reference_{name}" / "run.json").read_text()) for name in ("weak", "strong")]
    assert models[0]["parameters"] < models[1]["parameters"]


def check_arm(folder, arm):
    """An arm consumed every sample once, in its order, and was evaluated at both stage ends."""
    order = Order.open(folder / f"order_{arm}")
    assert np.array_equal(np.sort(order[:]), np.arange(len(Tokens.open(folder / "tokens"))))
    assert len(order) % order.batch_size != 0, "the last batch should be a part of one here"
    run = folder / f"run_{arm}"
    assert read_consumed(run).tolist() == order[:].tolist()
    stages = [record for record in read_metrics(run / "metrics.jsonl") if record["kind"] == "stage"]
    assert [record["stage"] for record in stages] == [1, 2]
    assert all(0 <= record["bench/continuation/acc"] <= 1 for record in stages)
    for record in stages:
        assert {"val/loss", "val/low_pd/loss", "val/high_pd/loss", "val/source/easy/loss"} <= set(record)
    assert list((run / "wandb").glob("offline-run-*/*.wandb"))


def check_export(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder / "export_pdpc")
    model = AutoModelForCausalLM.from_pretrained(folder / "export_pdpc")
    ids = torch.tensor([tokenizer("the cat sees the dog")["input_ids"]])
    with torch.inference_mode():
        assert torch.isfinite(model(ids).logits).all()


def check_nothing_is_left(folder):
    assert {path.name for path in folder.parent.iterdir()} == {"demo", "demo.log", "text"}
    assert not [path for path in folder.rglob("*") if ".tmp-" in path.name or path.name.endswith(".partial")]
