"""The page's code runs unchanged: its Python, from a Parquet file of scores to batches, and each of its commands."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from curriculum.arrange import arrange
from launch.cli import VERBS
from train.config.compose import compose

PAGE = Path(__file__).resolve().parents[2] / "docs" / "bring-your-own-scores.md"
TEXT = PAGE.read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
SAMPLES = 40_000


def commands():
    """Return the words of the page's command lines, with continued lines joined."""
    import shlex

    joined = re.sub(r" *\\\n *", " ", TEXT)
    return [shlex.split(line)[2:] for line in re.findall(r"^    (pdpc arrange .*)$", joined, flags=re.MULTILINE)]


@pytest.fixture(scope="module")
def scores():
    rng = np.random.default_rng(0)
    return {
        "quality": rng.normal(size=SAMPLES).astype(np.float32),
        "perplexity": np.exp(rng.normal(3, 1, SAMPLES)).astype(np.float32),
        "length": rng.integers(1, 512, SAMPLES),
        "source": rng.choice(["code", "web", "stories"], SAMPLES),
    }


@pytest.fixture
def here(tmp_path, monkeypatch, scores):
    """A working directory with the files that the page assumes."""
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table(scores), "scores.parquet")
    Path("table.csv").write_text("progress,low,high\n0,3,1\n1,1,3\n")
    return tmp_path


def test_the_first_block_goes_from_scores_to_batches_in_twenty_lines(here, scores):
    assert len(BLOCKS[0].strip().splitlines()) <= 20
    steps = {}
    for rank in range(2):
        steps[rank] = []
        names = {"rank": rank, "world_size": 2, "dataset": range(SAMPLES), "train_step": steps[rank].append}
        exec(compile(BLOCKS[0], str(PAGE), "exec"), names)
    batches = [[*one, *other] for one, other in zip(steps[0], steps[1], strict=True)]
    assert {len(batch) for batch in batches[:-1]} == {256}
    assert sorted(sample for batch in batches for sample in batch) == list(range(SAMPLES))
    means = [scores["quality"][batch].mean() for batch in batches]
    assert np.mean(means[:30]) < -0.2 < 0.2 < np.mean(means[-30:])


class Dataset(torch.utils.data.Dataset):
    """Samples as a trainer of transformers takes them."""

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        return {"number": index}


class Model(torch.nn.Module):
    """Remembers what it has seen."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(1)), []

    def forward(self, number):
        self.seen.append(number.tolist())
        return {"loss": self.weight.sum()}


def test_the_blocks_run_in_sequence(here, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    steps, model = [], Model()
    names = {"rank": 0, "world_size": 8, "dataset": Dataset(), "train_step": steps.append, "model": model}
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), names)
    assert len(names["ids"]) == 64
    order = list(names["order"])
    micro = [order[i : i + 128] for i in range(0, SAMPLES, 128)]
    assert [batch["number"].tolist() for batch in steps if isinstance(batch, dict)] == micro
    assert model.seen == micro


@pytest.mark.parametrize("words", commands(), ids=lambda words: words[-1])
def test_every_command_runs(here, words):
    schema, _, choices = VERBS["arrange"].load()
    order = arrange.run(compose("arrange", schema, words, choices))
    if "orders/edges" not in words[-1]:
        assert sorted(order[:]) == list(range(SAMPLES))


def test_edges_and_uses_do_what_the_page_says(here, scores):
    schema, _, choices = VERBS["arrange"].load()
    words = next(words for words in commands() if "orders/edges" in words[-1])
    times = np.bincount(arrange.run(compose("arrange", schema, words, choices))[:], minlength=SAMPLES)
    quality = scores["quality"]
    assert (times == np.select([quality <= -1, quality > 1], [0, 2], 1)).all()


def test_strata_keep_the_mix_as_the_page_says(here, scores):
    schema, _, choices = VERBS["arrange"].load()
    words = next(words for words in commands() if "orders/strata" in words[-1])
    ids = arrange.run(compose("arrange", schema, words, choices))[:]
    shares = [(scores["source"][part] == "code").mean() for part in np.array_split(ids, 10)]
    assert np.ptp(shares) < 0.01
