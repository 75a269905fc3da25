"""Whole runs: consumed samples, records, kills and resumes, the export.

Launchers start the run whose launcher is killed and the one that a user types for DeepSpeed; the first one, resumed, is
`whole_run` to the bit, and the second, of one process, up to rounding. The ranks of the other runs are forked.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from curriculum.arrange import arrange
from curriculum.order.consumed import as_hex, order_hash
from curriculum.order.order import Order
from curriculum.preference import Pdpc
from curriculum.tokens.tokens import Tokens
from launch.cli import main
from tests.ports import free_port
from tests.torture.runs import PATIENCE_S
from tests.train.descendants import descendants
from train.checkpoint.decoder import load_decoder
from train.config.compose import compose
from train.distributed import heartbeat
from train.distributed.exit_codes import CHANGED, REFUSED, UNREADABLE
from train.export.export import newest_checkpoint
from train.export.weights import choose_weights
from train.inputs import open_inputs
from train.records.consumed import read_consumed
from train.records.run_json import read_run
from train.records.state import state_of
from train.resume.lineage import ChangedRun
from train.resume.runfolder import finished
from train.settings import TrainSettings
from train.tracking import read_metrics
from train.tracking.panels import STEP, TOKENS, sections_of
from train.tracking.wandb_run import shown

ROOT = Path(__file__).parents[2]
MAX_TOKENS = 16_000
"""A third of the corpus: 32 steps, the last one with a partial batch."""


@pytest.fixture(scope="module")
def words(tokens_folder, scores_folder, tmp_path_factory):
    """Arguments of a small run, without its output folder."""
    order = tmp_path_factory.mktemp("orders") / "order"
    arrange.run(
        arrange.ArrangeSettings(
            tokens=str(tokens_folder),
            scores=str(scores_folder),
            output=str(order),
            preference=Pdpc(),
            batch_size=16,
            stages=3,
            max_tokens=MAX_TOKENS,
        )
    )
    return [
        "arm=pdpc",
        f"data.tokens={tokens_folder}",
        f"data.order={order}",
        f"data.scores={scores_folder}",
        "model=demo_weak",
        "precision=fp32",
        "micro_batch_size=4",
        "log_every=1",
        "optimizer.lr=3e-3",
        "threads=1",
        "heldout.max_samples=40",
        "tracker=none",
        "seed=3",
    ]


def pdpc_train(words, output, fault=""):
    """Start `pdpc train` with two ranks; both launchers and the ranks are new interpreters."""
    command = [sys.executable, "-m", "launch.cli", "train", *words, f"output={output}", "processes=2"]
    environment = {**os.environ, "PDPC_FAULT": fault}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.fixture(scope="module")
def whole_run(words, forked, tmp_path_factory):
    """An undisturbed run of two processes."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    forked(words, folder, 2)
    return folder


@pytest.fixture(scope="module")
def forked(forks, tmp_path_factory):
    """Return a function that runs forked ranks of `python -m train`, checks their exit code, returns their output."""
    log = tmp_path_factory.mktemp("logs") / "log"

    def run(words, output, ranks, code=0, **environment):
        arguments = {"words": list(words), "output": str(output)}
        started = forks.start("tests.torture.forks:train", arguments, ranks, log, environment)
        codes = started.wait(PATIENCE_S)
        started.kill()
        output_text = started.told()
        started.log.unlink()
        assert codes == [code] * ranks, output_text
        return output_text

    return run


def order_of(folder):
    return Order.open(read_run(folder)["paths"]["order"])


def losses(folder):
    return [
        {key: value for key, value in record.items() if "loss" in key or key in ("kind", "step", "tokens")}
        for record in read_metrics(folder / "metrics.jsonl")
    ]


def test_data_that_is_rewritten_under_a_run_ends_it_before_a_checkpoint_learns_from_it(
    whole_run, words, tokens_folder, forks, forked, tmp_path
):
    """The run stands still at a step while somebody copies other tokens over its own, with the old times kept."""
    shutil.copytree(tokens_folder, tmp_path / "tokens")
    mine = [f"data.tokens={tmp_path / 'tokens'}" if word.startswith("data.tokens=") else word for word in words]
    fault = {"PDPC_FAULT": "loop.before_step:nth=9:stop"}
    arguments = {"words": mine, "output": str(tmp_path / "run")}
    ranks = forks.start("tests.torture.forks:train", arguments, 1, tmp_path / "log", fault)
    ranks.wait_for("fault loop.before_step: stop")
    while Path(f"/proc/{ranks.pids[0]}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        pass
    path = tmp_path / "tokens" / "train.ids.bin"
    data, before = path.read_bytes(), path.stat()
    with open(path, "r+b") as file:
        file.write(bytes(len(data)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    ranks.kill(signal.SIGCONT)
    assert ranks.wait(PATIENCE_S) == [UNREADABLE], ranks.told()
    assert re.search(r"train\.ids\.bin is damaged between bytes \d+ and \d+: its checksum differs; while", ranks.told())
    assert not list((tmp_path / "run" / "checkpoints").glob("step_*"))
    path.write_bytes(data)
    forked(mine, tmp_path / "run", 1)
    assert read_consumed(tmp_path / "run").tolist() == read_consumed(whole_run).tolist()
    ours, theirs = ([record["train/loss"] for record in losses(run)[:8]] for run in (tmp_path / "run", whole_run))
    assert np.allclose(ours, theirs, rtol=1e-4)


def test_two_processes_consume_the_order(whole_run):
    order = order_of(whole_run)
    assert read_consumed(whole_run).tolist() == order[0 : len(order)].tolist()
    facts = read_run(whole_run)
    assert facts["status"] == "finished"
    assert facts["world_size"] == 2


def test_one_process_of_the_deepspeed_launcher_consumes_the_same_and_learns_the_same(whole_run, words, tmp_path):
    """`deepspeed --module train ...` as users type it; it passes --local_rank, which must be accepted."""
    launcher = ["-m", "deepspeed.launcher.runner", "--num_gpus", "1", "--master_port", str(free_port())]
    command = [sys.executable, *launcher, "--module", "train", *words, f"output={tmp_path / 'one'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    shown = done.stdout + done.stderr
    assert done.returncode == 0, shown
    assert len(re.findall(r"^kernels: plain \(cpu, (?:bf16|fp32)\)$", shown, re.MULTILINE)) == 1
    assert len(re.findall(r"^attention: (?:blocks|sdpa) \(cpu, (?:bf16|fp32)\)$", shown, re.MULTILINE)) == 1
    assert read_consumed(tmp_path / "one").tolist() == read_consumed(whole_run).tolist()
    ours, theirs = (
        [record["train/loss"] for record in losses(run) if record["kind"] == "train"]
        for run in (tmp_path / "one", whole_run)
    )
    assert np.allclose(ours, theirs, rtol=1e-4)
    norms = [
        [record["optim/grad_norm"] for record in read_metrics(run / "metrics.jsonl") if record["kind"] == "train"]
        for run in (tmp_path / "one", whole_run)
    ]
    assert np.allclose(*norms, rtol=1e-2)  # losses hardly show a wrong gradient scale: AdamW divides it out


def test_records_match_the_run(whole_run):
    order = order_of(whole_run)
    records = read_metrics(whole_run / "metrics.jsonl")
    train = [record for record in records if record["kind"] == "train"]
    assert [record["step"] for record in train] == list(range(1, order.steps + 1))
    assert (
        train[-1]["tokens"]
        == Tokens.open(read_run(whole_run)["paths"]["tokens"]).real_tokens(order[0 : len(order)]).sum()
    )
    for record in train:
        cursor = min(record["step"] * order.batch_size, len(order))
        assert record["data/cursor"] == cursor
        assert record["data/consumed_hash"] == as_hex(order_hash(order, cursor))
    assert train[-1]["train/loss"] < train[0]["train/loss"] - 0.5
    for step in (0, order.steps // 2):
        assert train[step]["curriculum/realised/high"] == pytest.approx(
            order.counts[step : step + 1][0, 1] / order.counts[step : step + 1].sum()
        )
    stages = [record for record in records if record["kind"] == "stage"]
    assert [record["stage"] for record in stages] == [1, 2, 3]
    assert [record["step"] for record in stages] == order.stage_ends
    for record in stages:
        assert {
            "val/loss",
            "val/source/easy/loss",
            "val/source/hard/loss",
            "val/low_pd/loss",
            "val/high_pd/loss",
        } <= set(record)


def test_records_have_the_loss_breakdown_and_the_throughput(whole_run):
    records = read_metrics(whole_run / "metrics.jsonl")
    train = [record for record in records if record["kind"] == "train"]
    before = 0
    for record in train:
        new, before = record["tokens"] - before, record["tokens"]
        for kind in ("source", "bucket"):
            groups = [key.removesuffix("/tokens") for key in record if key.startswith(f"{kind}/") and "tokens" in key]
            assert sum(record[f"{group}/tokens"] for group in groups) == new
            parts = [(record[f"{group}/loss"] or 0.0) * record[f"{group}/tokens"] for group in groups]
            assert sum(parts) / new == pytest.approx(record["train/loss"], rel=1e-5)
        split = sum(record[f"time/{name}_s"] for name in ("forward", "backward", "optimizer", "other"))
        assert split + record["data/wait_s"] == pytest.approx(record["time/step_s"], rel=0.2)
        assert record["throughput/tokens_total"] == record["tokens"]
        assert record["memory/peak_gib"] > 0.1


def test_every_metric_of_a_run_is_in_exactly_one_wandb_panel(whole_run):
    names = {name for record in read_metrics(whole_run / "metrics.jsonl") for name in shown(record)}
    shared = [metric for section in sections_of(names) for plot in section.plots for metric in plot.metrics]
    assert sorted(shared) == sorted(names.difference({"stage", STEP, TOKENS}))  # the axes and the stage number


def test_an_unreachable_tracker_and_weight_averaging_do_not_change_the_run(whole_run, words, forked, tmp_path):
    from tests.torture.wandb_server import BLACK_HOLE, WandbServer

    folder, key = tmp_path / "dark", "canary" + "0123456789" * 4
    with WandbServer(BLACK_HOLE) as server:
        environment = {"WANDB_MODE": "online", "WANDB_BASE_URL": server.url, "WANDB_API_KEY": key}
        trackers = ["tracker=both", "tracker.finish_s=0.5", "averaging.decay=0.9", "averaging.every=2"]
        out = forked([*words, *trackers], folder, 2, **environment)
    assert "W&B: 0 records sent" in out
    assert losses(folder) == losses(whole_run)
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))
    assert key not in out
    assert not any(key.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    running, last = (choose_weights(folder, weights).read()[1] for weights in ("running", "last"))
    assert any(not torch.equal(running[name], last[name]) for name in last)
    command = ["export", f"run={folder}", f"output={tmp_path / 'hf'}", "weights=running"]
    assert main(command) == 0
    assert "| weights of | running average, step" in (tmp_path / "hf" / "README.md").read_text()


def test_ranks_exit_when_the_launcher_is_killed_and_the_run_resumes_bitwise_equal(whole_run, words, forked, tmp_path):
    folder = tmp_path / "killed"
    first_end, second_end, _ = order_of(whole_run).stage_ends
    middle = (first_end + second_end) // 2
    process = pdpc_train(words, folder, f"loop.before_record:rank=0:nth={middle}:hang")
    metrics, deadline = folder / "metrics.jsonl", time.monotonic() + PATIENCE_S
    while not (metrics.exists() and f'"step": {middle - 2},' in metrics.read_text()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    below = descendants(process.pid)
    assert len(below) >= 4
    folder_of = {pid: place for pid in below if (place := environment_of(pid).get(heartbeat.VARIABLE))}
    started = heartbeat.pids(Path(next(iter(folder_of.values()))))
    assert sorted(started) == [0, 1]
    assert set(started.values()) <= set(folder_of)  # the supervisor sends its signals to them
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + PATIENCE_S
    while (left := [pid for pid in below if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left
    assert read_run(folder)["status"] == "running"
    assert newest_checkpoint(folder).name == f"step_{first_end:08d}"

    out = forked(words, folder, 2)
    assert f"resumed from step {first_end}" in out
    assert losses(folder) == losses(whole_run)
    assert read_consumed(folder).tolist() == read_consumed(whole_run).tolist()
    ours, theirs = (newest_checkpoint(run) for run in (folder, whole_run))
    for rank in range(2):
        name = f"rank_{rank:05d}.safetensors"
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()


def test_a_killed_run_resumes_with_a_replanned_order_but_not_with_another_past(
    words, forked, replanned, forged, tmp_path, capfd
):
    folder = tmp_path / "killed"
    path = next(word for word in words if word.startswith("data.order=")).removeprefix("data.order=")
    order = Order.open(path)
    end = order.stage_ends[0]
    forked(words, folder, 2, code=-signal.SIGKILL, PDPC_FAULT=f"loop.before_record:nth={end + 3}:kill")
    before = (folder / "run.json").read_bytes()

    other = forged(order, tmp_path / "damaged", 1, 2)
    out = forked([*words, f"data.order={other.folder}"], folder, 1, code=CHANGED)
    assert f"step_{end:08d} has consumed other samples than the first {end * order.batch_size} of order" in out
    assert (folder / "run.json").read_bytes() == before

    child = replanned(order, tmp_path / "child", end * order.batch_size)
    out = forked([*words, f"data.order={child.folder}", "micro_batch_size=8"], folder, 1)
    assert out.count(f"resuming with order {child.fingerprint}") == 1
    assert read_consumed(folder).tolist() == child[:].tolist() != order[:].tolist()
    facts = read_run(folder)
    assert facts["fingerprints"]["order"] == child.fingerprint
    attempts = [(attempt["order"], attempt["step"], attempt["world_size"]) for attempt in facts["lives"]]
    assert attempts == [(order.fingerprint, 0, 2), (child.fingerprint, end, 1)]
    assert (facts["cursor"], facts["consumed_hash"]) == (len(child), as_hex(order_hash(child, len(child))))
    assert main(["train", *words, f"output={folder}"]) == CHANGED
    assert f"fingerprints.order: was '{child.fingerprint}', now '{order.fingerprint}'" in capfd.readouterr().err


def test_a_killed_run_resumes_with_another_batch_size_by_the_command_that_its_error_prints(words, forked, tmp_path):
    folder, other = tmp_path / "killed", tmp_path / "batches of 24"
    given = dict(word.split("=", 1) for word in words)
    order = Order.open(given["data.order"])
    end = order.stage_ends[0]
    forked(words, folder, 2, code=-signal.SIGKILL, PDPC_FAULT=f"loop.before_record:nth={end + 3}:kill")
    assert state_of(folder, read_run(folder)) == "not running (it was killed or failed: its lock is free)"
    arrange.run(
        arrange.ArrangeSettings(
            tokens=given["data.tokens"],
            scores=given["data.scores"],
            output=str(other),
            preference=Pdpc(floor=0.3, uses={"high": 2}),
            batch_size=24,
            stages=3,
            max_tokens=MAX_TOKENS,
        )
    )
    before = (folder / "run.json").read_bytes()
    out = forked([*words, f"data.order={other}"], folder, 1, code=CHANGED)
    assert (
        f"has consumed {end * 16} samples in {end} steps, but order {other} has {end * 24} in {end} steps of 24" in out
    )
    assert (folder / "run.json").read_bytes() == before

    command, place = re.search(
        r"Run `pdpc (replan [^`]*)`, then the run's own command with (data.order=.*)", out
    ).groups()
    assert main(shlex.split(command)) == 0
    (place,) = shlex.split(place)
    child = Order.open(place.partition("=")[2])
    assert child.batch_sizes == [[0, 16], [end, 24]]
    preference = child.manifest.config["preference"]
    assert (preference["name"], preference["floor"], preference["uses"]) == ("pdpc", 0.3, {"high": 2})
    out = forked([*words, place], folder, 1, code=CHANGED)  # the high half is used twice: the run gets longer
    assert f"the learning rate of step {end + 1} moves from" in out
    assert "--accept-change schedule.steps" in out
    assert (folder / "run.json").read_bytes() == before
    out = forked([*words, place, "accept_change=[schedule.steps]"], folder, 2)
    assert f"resumed from step {end} of {child.steps}" in out
    assert [change["field"] for change in read_run(folder)["lives"][-1]["accepted"]] == ["schedule.steps"]
    assert read_consumed(folder).tolist() == child[:].tolist()
    assert read_run(folder)["status"] == "finished"

    out = forked([*words, place], tmp_path / "new", 1, code=CHANGED)
    assert f"a run can only resume with it after step {end}, but {tmp_path / 'new'} is at step 0" in out


def test_a_run_starts_from_another_runs_weights_and_resumes_without_them(whole_run, words, forked, tmp_path):
    """The same weights from a RUN, its checkpoint and its export give the same run, killed and resumed or not."""
    order, export = order_of(whole_run), tmp_path / "export"
    weights = newest_checkpoint(whole_run)
    once, killed = tmp_path / "once", tmp_path / "killed"
    out = forked([*words, f"init={whole_run}"], once, 1)
    assert f"weights of {whole_run} (run pdpc: trained, step {order.steps}; fingerprint" in out
    given = dict(word.split("=", 1) for word in words)
    ids = torch.from_numpy(Tokens.open(given["data.tokens"]).sample(order[0 : order.batch_size]))
    known = float(load_decoder(weights)(ids).total.detach()) / int((ids[:, 1:] >= 0).sum())
    first = next(record for record in read_metrics(once / "metrics.jsonl") if record["kind"] == "train")
    assert first["train/loss"] == pytest.approx(known, rel=1e-5)

    shutil.copytree(whole_run / "export", export)
    fault = f"loop.before_record:nth={order.stage_ends[0] + 3}:kill"
    zero = [f"init={export}", "zero.stage=2"]
    forked([*words, *zero], killed, 2, code=-signal.SIGKILL, PDPC_FAULT=fault)
    shutil.rmtree(export)
    out = forked([*words, *zero], killed, 1)
    assert f"init={export} no longer exists: the run resumes from its checkpoint" in out
    assert f"resumed from step {order.stage_ends[0]}" in out
    ours, theirs = (
        [record["train/loss"] for record in losses(run) if record["kind"] == "train"] for run in (killed, once)
    )
    assert np.allclose(ours, theirs, rtol=1e-4)
    card = (killed / "export" / "README.md").read_text()
    assert f"`{read_run(killed)['fingerprints']['init']}`" in card
    assert "| initial weights | Hugging Face folder (export) |" in card

    recorded = read_run(killed)["fingerprints"]["init"]
    for other, now in (([f"init={whole_run}"], "'"), ([], "None"), ([f"init={whole_run}", "init_average=2"], "'")):
        settings = compose("train", TrainSettings, [*words, *other, f"output={killed}"])
        with pytest.raises(ChangedRun, match=f"fingerprints.init: was '{recorded}', now {now}"):
            finished(killed, settings, open_inputs(settings))


def environment_of(pid):
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_finished_run_is_reused_and_other_settings_are_rejected(whole_run, words, capfd):
    again = ["train", *words, f"output={whole_run}"]
    assert main([*again, "processes=2"]) == 0
    assert "is finished: reused" in capfd.readouterr().out
    assert main([*again, "processes=2", "optimizer.lr=1e-4"]) == CHANGED
    assert "optimizer.lr: was 0.003, now 0.0001" in capfd.readouterr().err


def test_attention_may_change_between_attempts_and_is_checked_before_training_starts(whole_run, words, tmp_path, capfd):
    assert main(["train", *words, f"output={whole_run}", "model.attention=reference"]) == 0
    assert "is finished: reused" in capfd.readouterr().out
    assert main(["train", *words, f"output={tmp_path / 'flash'}", "model.attention=flash"]) == REFUSED
    assert "attention=flash runs only on cuda, not on cpu: use attention=" in capfd.readouterr().err
    assert not (tmp_path / "flash").exists()


def test_the_export_loads_without_our_package_and_has_equal_logits(whole_run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(whole_run / "export")
    model = AutoModelForCausalLM.from_pretrained(whole_run / "export", dtype=torch.float32)
    ids = torch.tensor([tokenizer("the cat sees a house and then the dog sleeps")["input_ids"]])
    ours = load_decoder(newest_checkpoint(whole_run)).logits(ids)
    torch.testing.assert_close(model(ids).logits, ours, rtol=1e-4, atol=1e-4)
    card, order = (whole_run / "export" / "README.md").read_text(), order_of(whole_run)
    for value in (order.fingerprint, order.manifest.inputs["tokens"], order.manifest.inputs["scores"]):
        assert f"| `{value}` |" in card
    assert f"| tokens seen | {read_metrics(whole_run / 'metrics.jsonl')[-1]['tokens']:,} |" in card
    assert f"| step | {order.steps:,} |" in card
    assert order.manifest.config["preference"]["name"] in card


def test_the_run_folder_records_what_was_used(whole_run, words):
    facts = read_run(whole_run)
    assert facts["fingerprints"]["order"] == order_of(whole_run).fingerprint
    assert facts["fingerprints"]["tokens"] == Tokens.open(facts["paths"]["tokens"]).fingerprint
    config = json.loads((whole_run / "config.json").read_text())
    assert config["optimizer"]["lr"] == 3e-3
    assert json.loads((whole_run / "ds_config.json").read_text())["gradient_accumulation_steps"] == 2
    assert len(list((whole_run / "checkpoints").iterdir())) == config["checkpoints"]["keep_last"]
