"""A RUN folder as left by a killed run on two ranks, with its TOKENS, SCORES and ORDER."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np

from curriculum.arrange import arrange
from curriculum.artifact.files import write_text
from curriculum.preference import Shuffled
from curriculum.text.text import TextSettings
from curriculum.tokens.job import run as prepare
from curriculum.tokens.settings import PrepareSettings
from curriculum.tokens.tokenizer import TokenizerSettings
from curriculum.tokens.tokens import Tokens
from tests.scores import write_scores
from tests.torture.ranks import on_ranks, save_step
from train.config.compose import compose
from train.inputs import open_inputs
from train.resume.runfolder import RunFolder
from train.settings import TrainSettings

STEPS = (2, 4)
RANKS = 2


def make_inputs(root: Path) -> None:
    """Write TOKENS, SCORES and an ORDER of 200 made-up documents into `root`."""
    rng = np.random.default_rng(0)
    (root / "text").mkdir(parents=True)
    words = ["the", "cat", "dog", "sees", "likes", "a", "tree", "house", "and", "then", "runs", "sleeps"]
    lines = [" ".join(rng.choice(words, int(rng.integers(20, 90)))) for _ in range(200)]
    (root / "text" / "text.jsonl").write_text(
        "".join(json.dumps({"text": line, "source": "made up"}) + "\n" for line in lines)
    )
    prepare(
        PrepareSettings(
            input=TextSettings(paths=[str(root / "text")]),
            tokenizer=TokenizerSettings(name="train:300"),
            seq_len=32,
            validation_fraction=0.1,
            reference_fraction=0.1,
            output=str(root / "tokens"),
        )
    )
    write_scores(
        root / "scores",
        [Tokens.open(root / "tokens", name) for name in ("train", "validation")],
        lambda part: {name: rng.uniform(2.0, 4.0, len(part)).astype(np.float32) for name in ("weak", "strong")},
    )
    arrange.run(
        arrange.ArrangeSettings(
            tokens=str(root / "tokens"), output=str(root / "order"), preference=Shuffled(), batch_size=8, stages=2
        )
    )


@cache
def settings_of(root: Path) -> TrainSettings:
    """Return the settings of the run."""
    data = [f"data.{name}={root / name}" for name in ("tokens", "order", "scores")]
    return compose("train", TrainSettings, [f"output={root / 'run'}", "arm=a", "tracker=none", *data])


def make_run(root: Path) -> None:
    """Write the inputs, and a run killed after two checkpoints, into `root`."""
    make_inputs(root)
    settings = settings_of(root)
    inputs = open_inputs(settings)
    run = root / "run"
    claimed = RunFolder.claim(run)
    facts = {"arm": "a", "seed": 0, "status": "running", "identity": {}, "parameters": 1, "paths": {}, "versions": {}}
    claimed.facts = {**facts, "fingerprints": inputs.fingerprints, "format": 2}
    claimed._write()
    claimed.release()
    write_text(run / "wandb_id", "0123456789ab\n")
    (run / "consumed").mkdir()
    for step in STEPS:
        with open(run / "metrics.jsonl", "a") as file:
            file.writelines(
                json.dumps({"kind": "train", "step": s, "tokens": 100 * s, "train/loss": 1 / s}) + "\n"
                for s in range(step - 1, step + 1)
            )
        for rank in range(RANKS):
            with open(run / "consumed" / f"world_00002_rank_{rank:05d}_width_4.bin", "ab") as rows:
                rows.write(np.arange(10 * step, 10 * step + 10, dtype=np.int64).tobytes())
        results = on_ranks(RANKS, lambda world, step=step: save_step(run / "checkpoints", world, step))
        assert all(isinstance(result, Path) for result in results), results
