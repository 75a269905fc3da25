"""A probe of a real run: what is refused, a real branch, and a simulated learner in the place of training."""

import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curriculum.arrange.arrange import ArrangeSettings
from curriculum.arrange.arrange import run as arrange
from curriculum.arrange.branch import unread, write_branch
from curriculum.order.order import Order
from curriculum.preference import Table
from curriculum.tokens.tokens import Tokens
from launch.cli import main
from launch.probe import probe as module
from launch.probe.branches import order_of, run_of
from launch.probe.probe import prepared
from launch.probe.settings import ProbeSettings
from tests.torture.runs import PATIENCE_S, Material
from train.records.run_json import as_text, checksum_of, read_run
from train.report.records import read_run as read_records
from train.resume.branching import copy_at

WORDS = ("checkpoints.keep_every=1", "schedule=cosine", "schedule.final_share=0.1")


@pytest.fixture(scope="module")
def place(forks, tmp_path_factory):
    """A finished run of 14 steps of 12 samples with checkpoints at 3, 5, 6, 9 and 12, and a score of its samples."""
    work = tmp_path_factory.mktemp("trunk")
    material = Material.make(work, samples=170)
    ranks = material.start(forks, work / "run", 1, WORDS)
    assert ranks.wait(PATIENCE_S) == [0], ranks.told()
    samples = len(Tokens.open(work / "tokens", "train"))
    quality = np.random.default_rng(0).permutation(samples).astype(np.float32)
    pq.write_table(pa.table({"quality": quality}), work / "quality.parquet")
    return work


def settings(place, output, **more):
    given = {"own_scores": str(place / "quality.parquet"), "score": "quality", "stratify_by": None, "steps": 1}
    return ProbeSettings(**{"run": str(place / "run"), "output": str(output), **given, **more})


def words(place, output, *more):
    return [
        "probe", str(place / "run"), f"output={output}", f"own_scores={place / 'quality.parquet'}", "score=quality",
        "stratify_by=null", "steps=1", "progress=[0.22,0.44,0.67]", *more,
    ]  # fmt: skip


LEARNER = """
import json, shutil, sys
from pathlib import Path
folder, step, share, wanted = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
with open(folder.parent.parent.parent / "calls", "a") as file:
    file.write(folder.name + "\\n")
if sys.argv[5] == folder.name:
    raise SystemExit(3)
shutil.copytree(sys.argv[6], folder, dirs_exist_ok=True)
record = {"kind": "stage", "stage": 1, "step": step + 1, "tokens": (step + 1) * 192}
with open(folder / "metrics.jsonl", "a") as file:
    file.write(json.dumps({**record, "val/loss": 3 + (share - wanted) ** 2}) + "\\n")
"""


@pytest.fixture
def ended_at(place, tmp_path):
    """Return a function: the run as it was at a checkpoint, but finished; the learner starts with a copy of it."""

    def make(number):
        folder = tmp_path / "ended" / number
        if not folder.exists():
            copy_at(place / "run", place / "run" / "checkpoints" / f"step_{number}", folder)
            facts = {**read_run(folder), "status": "finished"}
            (folder / "run.json").write_text(as_text({**facts, "checksum": checksum_of(facts)}))
        return folder

    return make


@pytest.fixture
def learner(ended_at, monkeypatch):
    """Put a learner in the place of training that prefers the share 0.1 + 0.8 p; return the branch that fails."""
    failing = [""]

    def command(step):
        _, number, _, share, _ = step.name.split("_")
        wanted = 0.1 + 0.8 * int(number) / 12
        arguments = [step.output, number, share, wanted, failing[0], ended_at(number)]
        return [sys.executable, "-c", LEARNER, *map(str, arguments)]

    monkeypatch.setattr(module, "command", command)
    return failing


def test_a_simulated_learner_resumed_by_branch(place, learner, tmp_path, capsys):
    output = tmp_path / "probe"
    assert main(words(place, output, "--plan")) == 0
    plan = capsys.readouterr().out
    assert "done: 0; missing: 15 branches" in plan
    assert not output.exists()

    learner[0] = "step_00000006_high_0.5_0"
    assert main(words(place, output)) == 3
    capsys.readouterr()
    learner[0] = ""
    assert main(words(place, output)) == 0
    printed = capsys.readouterr().out
    calls = (tmp_path / "calls").read_text().split()
    (tmp_path / "calls").unlink()
    assert len(calls) == 16  # each branch once, and the failed one twice
    assert sorted({name for name in calls if calls.count(name) > 1}) == ["step_00000006_high_0.5_0"]

    results = json.loads((output / "results.json").read_text())
    order = Order.open(place / "order")
    at = [order.cursor_after(step) / len(order) for step in (3, 6, 9)]
    assert [one["progress"] for one in results["checkpoints"]] == pytest.approx(at)
    assert [one["shares"][1] for one in results["checkpoints"]] == pytest.approx([0.3, 0.5, 0.7])
    assert results["cost"]["tokens"] == pytest.approx(15 * 192, rel=0.02)  # the run counts no padding, the learner does
    assert "it rises" in printed
    assert (output / "preference.svg").read_text().startswith("<?xml")
    assert "high_0.25" in (output / "probe.html").read_text()

    table = Table(file=str(output / "preference.csv"), score="quality")
    written = arrange(
        ArrangeSettings(
            tokens=str(place / "tokens"), own_scores=str(place / "quality.parquet"), batch_size=12, stages=1,
            output=str(tmp_path / "order"), preference=table, workers=1,
        )
    )  # fmt: skip
    assert written.counts[0:4][:, 1].sum() < written.counts[4:8][:, 1].sum() < written.counts[8:12][:, 1].sum()

    page = (output / "probe.html").read_bytes()
    assert main(words(place, output)) == 0
    assert not (tmp_path / "calls").exists()
    assert (output / "probe.html").read_bytes() == page
    assert main(words(place, output, "measure=val/source/x/loss")) == 2
    assert "measure=val/source/x/loss was not recorded: use one of val/loss" in capsys.readouterr().err


def test_a_real_branch_resumes_the_run_at_its_rate_on_unread_data(forks, place, tmp_path):
    made = prepared(settings(place, tmp_path))
    one = next(each for each in made.branches if each.name == "step_00000006_high_1_0")
    step = next(each for each in made.commands if each.name == one.name)
    left = unread(made.trunk.order, made.cells, one.from_step, one.seed)
    write_branch(made.trunk.order, made.cells, left, 1, np.array(one.shares), 0, order_of(tmp_path, one))
    before = {path: path.read_bytes() for path in (place / "run").rglob("*") if path.is_file()}
    folder = run_of(tmp_path, one)

    given = [word for word in step.words if not word.startswith("output=")]
    arguments = {"words": given, "output": str(folder)}
    ranks = forks.start("tests.torture.forks:train", arguments, 1, tmp_path / "log", {})
    assert ranks.wait(PATIENCE_S) == [0], ranks.told()
    told = ranks.told()
    assert "resumed from step 6 of 7" in told
    assert "damaged" not in told
    assert "warning" not in told.lower()
    found = read_records("branch", folder)
    assert found.finished
    assert [record["step"] for record in found.stages][-1] == 7
    trunk = read_records("trunk", place / "run")
    assert found.train[-1]["optim/lr"] == pytest.approx(next(r["optim/lr"] for r in trunk.train if r["step"] == 7))
    assert found.train[:6] == trunk.train[:6]
    assert read_run(folder)["cursor"] == 7 * 12
    assert {path: path.read_bytes() for path in before} == before


def test_what_cannot_be_probed_is_refused(place, tmp_path):
    with pytest.raises(ValueError, match=r"progress=0\.1: .*run keeps checkpoints at .*none within 0\.02"):
        prepared(settings(place, tmp_path, progress=[0.1, 0.5]))
    with pytest.raises(ValueError, match=r"samples of the bucket .* have not been read.*give fewer steps"):
        prepared(settings(place, tmp_path, steps=8, progress=[0.44, 0.67]))
    with pytest.raises(ValueError, match="a preference needs branches at 2 checkpoints"):
        prepared(settings(place, tmp_path, steps=30))
    with pytest.raises(ValueError, match=r"a preference needs branches at 2 checkpoints.*and 1 can have"):
        prepared(settings(place, tmp_path, progress=[0.44]))
    with pytest.raises(ValueError, match=r"is not at .* any more: give order=FOLDER"):
        prepared(settings(place, tmp_path, order=str(tmp_path / "gone")))
    with pytest.raises(ValueError, match="cuts by 'pd': give scores=FOLDER"):
        prepared(settings(place, tmp_path, own_scores=None, score="pd"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"buckets": 1}, "buckets=1 must be at least 2"),
        ({"shares": [0.0, 0.5, 1.0]}, "must be at least 4 different shares between 0 and 1"),
        ({"shares": [0.0, 0.5, 1.0, 1.5]}, "must be at least 4 different shares between 0 and 1"),
        ({"progress": [0.0, 0.5]}, "must be different points between 0 and 1"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"measure": "loss"}, "measure='loss' must be a measure of the run"),
        ({"fit": "spline"}, "fit='spline' is unknown: use one of logistic, monotone"),
        ({"fit": "monotone", "buckets": 3}, "fit=monotone needs buckets=2, not 3"),
    ],
)
def test_settings_that_cannot_be_are_named(change, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        ProbeSettings(run="r", output="o", **change)


def test_an_order_that_is_not_shuffled_and_a_run_without_checkpoints_are_refused(place, tmp_path, edit_manifest):
    import shutil

    shutil.copytree(place / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(ValueError, match=r"keeps no checkpoint before its end: train it with checkpoints\.keep_every"):
        prepared(settings(place, tmp_path, run=str(tmp_path / "run")))
    shutil.copytree(place / "order", tmp_path / "order")
    edit_manifest(
        tmp_path / "order", lambda fields: fields["config"].update(preference={"name": "sorted", "score": "quality"})
    )
    with pytest.raises(ValueError, match="an order that is by sorted: a probe branches from a run on shuffled data"):
        prepared(settings(place, tmp_path, order=str(tmp_path / "order")))
