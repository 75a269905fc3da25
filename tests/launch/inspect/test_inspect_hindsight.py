"""pdpc inspect RUN hindsight=SCORES: the pass, what it prints and writes, and what it refuses."""

import csv
import json
import re
import shutil

import numpy as np
import pytest

from curriculum.arrange.arrange import ArrangeSettings, run
from curriculum.artifact.manifest import open_manifest
from curriculum.preference import Shuffled
from curriculum.scores.scores import Scores
from curriculum.tokens.tokens import Tokens
from launch.cli import main
from launch.score.task import ScoreTask
from tests.launch.inspect.runs import decoder_of, write_checkpoint
from tests.scores import write_scores


@pytest.fixture
def finished(trained, tokens_folder, monkeypatch):
    """The same run, at its end; its pass takes one process, as new ones would only import torch again."""
    monkeypatch.setattr(ScoreTask, "usual_processes", lambda task: 1)
    facts = json.loads((trained / "run.json").read_text())
    facts |= {"status": "finished"}
    facts["fingerprints"]["tokenizer"] = Tokens.open(tokens_folder).tokenizer_fingerprint
    (trained / "run.json").write_text(json.dumps(facts))
    return trained


def inspect(capsys, *words, code=0):
    found = main(["inspect", *(str(word) for word in words)])
    printed = capsys.readouterr()
    assert found == code, printed.err
    return printed.err if code else printed.out


def test_a_pass_a_table_and_a_picture(capsys, finished, order, tokens_folder, scores_folder, tmp_path):
    table, picture, folder = tmp_path / "wish.csv", tmp_path / "hindsight.svg", tmp_path / "hindsight"
    (finished / "skipped.jsonl").write_text('{"step": 3, "reason": "spike"}\n')
    words = [finished, f"hindsight={folder}", f"table={table}", "prefer=high", f"picture={picture}"]
    text = inspect(capsys, *words)
    assert "baseline " in text
    assert "slice 'validation', by bucket and source, adjusted for loss_weak and loss_strong" in text
    assert "left out      16 positions of steps that were skipped or rolled back" in text
    shown = [float(word) for word in re.search(r"^high loss +(.*)$", text, re.MULTILINE).group(1).split()]
    losses = Scores.open(folder).column("loss_final")
    assert min(losses) < min(shown) <= max(shown) < max(losses)
    assert sorted(open_manifest(folder, "scores").files) == ["train.parquet", "validation.parquet"]
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [float(row["progress"]) for row in rows] == sorted(float(row["progress"]) for row in rows)
    assert "remembered" in picture.read_text()
    command = next(line for line in text.splitlines() if "pdpc arrange" in line).replace("'", "").split()[3:]
    places = [f"tokens={tokens_folder}", f"scores={scores_folder}", f"output={tmp_path / 'next'}", "batch_size=16"]
    assert main(["arrange", *places, *command]) == 0
    capsys.readouterr()
    again = inspect(capsys, *words)  # reuses the scores, replaces table and picture
    assert again.splitlines()[-1] == text.splitlines()[-1]
    assert "PD" not in again
    other_cut = inspect(capsys, finished, f"hindsight={folder}", "cut_by=loss_strong", "buckets=3")
    assert re.search(r"^q3 remembered ", other_cut, re.MULTILINE)
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    write_checkpoint(other, 9, decoder_of(Tokens.open(tokens_folder), seed=5))
    assert f"{folder}" in inspect(capsys, finished, f"hindsight={folder}", f"loss_model={other}", code=2)


def test_what_hindsight_refuses(capsys, finished, order, tmp_path):
    folder = tmp_path / "hindsight"

    def refused(*words):
        message = inspect(capsys, *words, f"hindsight={folder}", code=2)
        assert not folder.exists()
        return message

    assert "needs a RUN, but" in refused(order.folder)
    assert "prefer=best is not one of the buckets low, high" in refused(
        finished, f"table={tmp_path / 't.csv'}", "prefer=best"
    )
    (tmp_path / "mine.csv").write_text("a,b\n")
    assert "mine.csv exists and was not written by this command" in refused(finished, f"table={tmp_path / 'mine.csv'}")
    facts = json.loads((finished / "run.json").read_text())
    moved = {**facts, "paths": {**facts["paths"], "tokens": str(tmp_path / "gone")}}
    (finished / "run.json").write_text(json.dumps(moved))
    assert "needs the order's tokens: give tokens=FOLDER" in refused(finished)
    (finished / "run.json").write_text(json.dumps({**facts, "status": "running"}))
    assert "is not finished, so its final weights do not exist yet" in refused(finished)


def test_an_order_without_never_read_samples_or_scores_is_refused(capsys, finished, tokens_folder, tmp_path):
    places = {"tokens": str(tokens_folder), "output": str(tmp_path / "order")}
    order = run(ArrangeSettings(**places, preference=Shuffled(), batch_size=16, workers=1))
    facts = json.loads((finished / "run.json").read_text())
    facts["paths"] |= {"order": str(order.folder), "scores": None}
    facts["fingerprints"]["order"] = order.fingerprint
    (finished / "run.json").write_text(json.dumps(facts))
    words = [finished, f"hindsight={tmp_path / 'h'}"]
    assert "table=t.csv needs buckets: give scores=FOLDER" in inspect(capsys, *words, "table=t.csv", code=2)
    rng = np.random.default_rng(0)
    losses = {name: rng.uniform(1, 2, len(Tokens.open(tokens_folder))) for name in ("weak", "strong")}
    scores = write_scores(tmp_path / "scores", [Tokens.open(tokens_folder)], lambda part: losses)
    message = inspect(capsys, *words, f"scores={scores}", code=2)
    assert f"{order.folder} reads all of slice 'train'" in message
    assert "has no scores to cut by: score it with the same models" in message
