"""The full pipeline in one command: killed on the way, resumed, and run a second time."""

import json
import os
import shlex
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
from tests.torture.runs import MEASURED, PATIENCE_S
from train.export.export import newest_checkpoint
from train.records.consumed import read_consumed
from train.records.run_json import read_run
from train.tracking import read_metrics

ROOT = Path(__file__).parents[3]
ARMS = ("shuffled", "pdpc")
SIZE = (
    "processes=1",
    "threads=1",
    "seq_len=32",
    "vocabulary=300",
    "batch_size=8",
    "stages=2",
    "seeds=1",
    "questions=8",
)
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
    """Start a demo in a new process group."""
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
    """Return whether the run in `folder` has recorded its first stage."""
    path = folder / "metrics.jsonl"
    return path.exists() and any(record["kind"] == "stage" for record in read_metrics(path))


def changed(folder):
    """Return the modification times of all files of artifacts, runs and exports; not of the report, which is a view."""
    return {
        path.relative_to(folder): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.parent != folder
    }


def values(run):
    """Return a run's records without the values that differ between any two runs."""
    return [
        {key: value for key, value in record.items() if not key.startswith(MEASURED)}
        for record in read_metrics(run / "metrics.jsonl")
    ]


def test_the_full_pipeline(contained, power_cut, forks, tmp_path):
    """A demo that is killed twice and resumes, and one of its arms trained again without interruption.

    One test, because a second pytest worker would have to run the pipeline again.
    """
    folder = tmp_path / "place" / "demo"
    write_long_text(folder.parent / "text")
    killed_twice(folder, contained, power_cut)

    check_page(folder)
    for arm in ARMS:
        check_arm(folder, arm)
    check_export(folder)
    check_nothing_is_left(folder)
    uninterrupted = trained_uninterrupted(folder, forks, contained, tmp_path / "uninterrupted")
    assert values(uninterrupted) == values(folder / "run_shuffled_0")

    before, report = changed(folder), (folder / "report.json").read_text()
    started = os.times().children_user
    finish(start(folder, contained), folder)
    assert os.times().children_user - started < 30
    assert changed(folder) == before
    assert (folder / "report.json").read_text() == report
    assert not (Path(contained["HOME"]) / "hf").exists()


def trained_uninterrupted(folder, forks, environment, output):
    """Train the killed arm again with the command that the demo printed; return its run."""
    line = next(line for line in folder.with_suffix(".log").read_text().splitlines() if "arm=shuffled" in line)
    words = [word for word in shlex.split(line.removeprefix("$ pdpc train ")) if not word.startswith("output=")]
    arguments = {"words": [*words, "tracker=none"], "output": str(output)}
    rank = forks.start("tests.torture.forks:train", arguments, 1, output.with_suffix(".log"), environment)
    assert rank.wait(PATIENCE_S) == [0], rank.told()
    return output


def killed_twice(folder, environment, power_cut):
    """Run a demo, kill it when SCORES appear, resume it, kill everything in an arm's second stage, and finish it."""
    process = start(folder, environment)
    wait_until((folder / "scores").is_dir, process, folder)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = {path: when for path, when in changed(folder).items() if path.parts[0] != "scores.chunks"}  # joined by then

    # The arm cannot finish: it hangs before the second checkpoint; the reference models have only one.
    process = start(folder, {**environment, "PDPC_FAULT": "checkpoint.before_write:nth=2:hang"})
    arm = folder / "run_shuffled_0"
    wait_until(lambda: evaluated(arm), process, folder)
    power_cut(environment)
    assert process.wait() == -signal.SIGKILL
    assert read_run(arm)["status"] == "running"
    order = Order.open(folder / "order_shuffled_0")
    assert newest_checkpoint(arm).name == f"step_{order.stage_ends[0]:08d}"

    finish(start(folder, environment), folder)
    after = changed(folder)
    assert {path: after[path] for path in kept} == kept
    log = folder.with_suffix(".log").read_text()
    resumed = (folder / "logs" / f"{arm.name}.log").read_text()
    assert f"scores {folder / 'scores'} are complete and match the settings: reused" in log
    assert f"resumed from step {order.stage_ends[0]} of {order.steps}" in resumed


def check_page(folder):
    """Check that the page has both arms, each trained on all tokens."""
    page = (folder / "report.html").read_text()
    assert all(arm in page for arm in ARMS)
    arms = json.loads((folder / "report.json").read_text())["arms"]
    assert set(arms) == set(ARMS)
    tokens = Tokens.open(folder / "tokens")
    assert {arm["tokens"] for arm in arms.values()} == {int(tokens.real_tokens(np.arange(len(tokens))).sum())}
    models = [json.loads((folder / f"reference_{name}" / "run.json").read_text()) for name in ("weak", "strong")]
    assert models[0]["parameters"] < models[1]["parameters"]


def check_arm(folder, arm):
    """Check that an arm consumed every sample once, in order, and was evaluated at both stage ends."""
    order = Order.open(folder / f"order_{arm}_0")
    assert np.array_equal(np.sort(order[:]), np.arange(len(Tokens.open(folder / "tokens"))))
    assert len(order) % order.batch_size != 0, "the last batch must be a partial one here"
    run = folder / f"run_{arm}_0"
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
