"""An order, and a run of it without training."""

import json

import numpy as np
import pytest

from curriculum.arrange.arrange import ArrangeSettings, run
from curriculum.preference import Pdpc
from curriculum.tokens.tokens import Tokens
from tests.launch.inspect.runs import STEPS_DONE, decoder_of, write_checkpoint


@pytest.fixture(scope="module")
def order(tokens_folder, scores_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspected") / "order"
    preference = Pdpc(stratify_by=None, floor=0.0, ceiling=1.0)
    places = {"tokens": str(tokens_folder), "scores": str(scores_folder), "output": str(folder)}
    return run(ArrangeSettings(**places, preference=preference, batch_size=16, stages=3, seed=4, workers=1))


@pytest.fixture
def trained(order, tokens_folder, scores_folder, tmp_path):
    """A RUN of two ranks that has reached step 12 and keeps the checkpoints of steps 4 and 8."""
    folder = tmp_path / "run"
    (folder / "consumed").mkdir(parents=True)
    tokens = Tokens.open(tokens_folder)
    facts = {"arm": "pdpc", "seed": 4, "status": "running", "parameters": 1, "identity": {}, "versions": {}}
    facts["paths"] = {"order": str(order.folder), "tokens": str(tokens_folder), "scores": str(scores_folder)}
    facts["paths"]["slice"] = "train"
    facts["fingerprints"] = {"order": order.fingerprint, "tokens": tokens.fingerprint}
    (folder / "run.json").write_text(json.dumps(facts))
    records = [{"kind": "train", "step": step, "tokens": step, "train/loss": 3 + step / 8} for step in (4, 8, 12)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for rank in range(2):
        rows = [[step, *order[step * 16 + rank * 8 : step * 16 + rank * 8 + 8]] for step in range(STEPS_DONE)]
        name = f"world_00002_rank_{rank:05d}_width_8.bin"
        np.array(rows, dtype=np.int64).tofile(folder / "consumed" / name)
    for step in (4, 8):
        write_checkpoint(folder, step, decoder_of(tokens, seed=step))
    return folder
