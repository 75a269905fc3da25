"""Small synthetic TOKENS, SCORES, ORDER and RUN folders, written with the real writers where possible."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curriculum.arrange import arrange
from curriculum.artifact.create import create
from curriculum.order.contents import EVERY
from curriculum.preference import Pdpc, Shuffled
from curriculum.scores.scores import Scores
from curriculum.tokens.tokens import Tokens, samples_in
from tests import scores
from train.evaluation.answers import Items, answers_path, write_answers
from train.report.records import Run

SOURCES = {"code": 150, "help": 60, "licences": 90, "prose": 200}
"""Source to number of documents."""
SEQ_LEN = 16
VALUES = {
    "shuffled": {"val/loss": 4.0, "val/low_pd/loss": 4.2, "val/high_pd/loss": 3.8, "bench/echo/acc": 0.50},
    "pdpc": {"val/loss": 4.1, "val/low_pd/loss": 4.5, "val/high_pd/loss": 3.7, "bench/echo/acc": 0.53},
}
"""Values of each arm at the end of the last stage; earlier stages have higher losses."""


CONTENTS = {
    "samples": 640, "different_samples": 640, "left_out": 0, "repeated": 0, "sample_set": EVERY,
    "batch_sizes": [[0, 16]], "steps": 40, "seq_len": SEQ_LEN,
}  # fmt: skip
"""What run.json says about the order of a run."""


def write_tokens(folder: Path, sources: dict[str, int] | None = None, length: int = 40) -> Tokens:
    """Write TOKENS with one train slice: every source has documents of `length` tokens."""
    table = []
    ids: list[int] = []
    starts: list[int] = []
    for name, documents in sorted((sources or SOURCES).items()):
        first = len(ids)
        for number in range(documents):
            starts.append(len(ids))
            ids += [0, *((number + offset) % 250 + 1 for offset in range(length))]
        ids.append(0)
        table.append({"name": name, "documents": documents, "tokens": len(ids) - first})
    with create(folder, "tokens", config={}, inputs={}) as draft:
        np.asarray(ids, "<u2").tofile(draft.path / "train.ids.bin")
        np.asarray(starts, "<i8").tofile(draft.path / "train.starts.bin")
        np.arange(len(starts), dtype="<i8").tofile(draft.path / "train.origins.bin")
        draft.facts.update(
            seq_len=SEQ_LEN, vocab_size=256, end_of_text=0, dtype="uint16", tokenizer_fingerprint="t" * 32,
            slices={"train": {"sources": table}},
        )  # fmt: skip
    return Tokens.open(folder)


def write_scores(folder: Path, tokens: Tokens) -> Scores:
    """Write SCORES whose PD rises with the source index, so that PD and source are correlated."""
    ids = np.arange(len(tokens))
    spread = np.random.default_rng(7).normal(0.0, 0.1, len(ids))
    weak = (5.0 + 0.2 * tokens.source_of(ids) + spread).astype(np.float32)
    strong = np.full(len(ids), 4.6, dtype=np.float32)
    return Scores.open(scores.write_scores(folder, [tokens], lambda _: {"weak": weak, "strong": strong}))


def stage_record(arm: str, stage: int, tokens: int, **more: Any) -> dict[str, Any]:
    """Return a record of kind `stage` as `pdpc train` writes it."""
    record: dict[str, Any] = {
        "kind": "stage",
        "stage": stage,
        "step": 10 * stage,
        "tokens": tokens,
        "time/evaluation_s": 1.5,
    }
    for key, value in VALUES.get(arm, VALUES["pdpc"]).items():
        record[key] = value - 0.02 * (4 - stage) if "bench" in key else value + 0.3 * (4 - stage)
    for number, name in enumerate(SOURCES):
        record[f"val/source/{name}/loss"] = record["val/loss"] + 0.1 * number
    record["bench/echo/acc_stderr"] = 0.02
    record["bench/avg"] = record["bench/echo/acc"]
    return record | more


def train_record(arm: str, step: int, tokens: int, **more: Any) -> dict[str, Any]:
    """Return a record of kind `train` as `pdpc train` writes it."""
    high = step / 40 if arm != "shuffled" else 0.5
    return {
        "kind": "train", "step": step, "tokens": tokens, "train/loss": 4.0 + 3.0 / step, "optim/lr": 1e-3,
        "throughput/tokens_per_s": 1000.0 + step, "time/step_s": 0.25, "curriculum/progress": step / 40,
        "curriculum/planned/low": 1 - high, "curriculum/planned/high": high,
        "curriculum/realised/low": 1 - high, "curriculum/realised/high": high,
    } | more  # fmt: skip


def records_of(arm: str, stages: int = 4, stage_tokens: int = 1000) -> list[dict[str, Any]]:
    """Return the metrics of a run: ten steps per stage, a train record every other step, a record per stage end."""
    records = []
    for stage in range(1, stages + 1):
        for step in range(10 * (stage - 1) + 2, 10 * stage + 1, 2):
            records.append(train_record(arm, step, step * stage_tokens // 10))
        records.append(stage_record(arm, stage, stage * stage_tokens))
    return records


def write_run(folder: Path, arm: str, records: list[dict[str, Any]] | None = None, **info: Any) -> Path:
    """Write a RUN folder; `info` replaces keys of run.json (in `fingerprints` and `arranged`: single values).

    Its key `config` replaces keys of config.json.
    """
    folder.mkdir(parents=True)
    config = {
        "arm": arm, "output": str(folder), "seed": 1,
        "data": {"tokens": "tokens", "order": f"orders/{arm}", "scores": "scores"},
        "model": {"layers": 2, "width": 64}, "optimizer": {"lr": 1e-3},
        "schedule": {"name": "cosine", "final_ratio": 0.33},
    } | info.pop("config", {})  # fmt: skip
    prints = {"tokens": "a" * 32, "order": f"{arm:b<32}", "tokenizer": "t" * 32, "scores": "c" * 32}
    prints |= {"validation": "v" * 32} | info.pop("fingerprints", {})
    run = {
        "arm": arm, "seed": 1, "status": "finished", "parameters": 123456, "world_size": 2,
        "fingerprints": prints, "arranged": CONTENTS | info.pop("arranged", {}),
        "paths": {"tokens": "gone/tokens", "order": f"gone/{arm}", "scores": "gone/scores", "slice": "train"},
        "versions": {"pdpc": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
    } | info  # fmt: skip
    lines = [json.dumps(record) + "\n" for record in (records_of(arm) if records is None else records)]
    (folder / "metrics.jsonl").write_text("".join(lines), "utf-8")
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    (folder / "run.json").write_text(json.dumps(run), "utf-8")
    return folder


def items_of(value: float, kind: str, rng: np.random.Generator, shared: np.ndarray) -> Items:
    """Return answers whose mean is `value`: right or wrong for `quiz`, else losses around those all arms share."""
    count = len(shared)
    if kind == "quiz":
        right = np.argsort(np.argsort(shared + rng.normal(0, 0.3, count))) < round(value * count)
        return Items(np.arange(count), right.astype(float), np.ones(count), np.arange(count))
    weights = 10.0 + np.arange(count) % 7
    raw = shared + rng.normal(0, 0.02, count)
    return Items(np.arange(count), raw + value - (raw * weights).sum() / weights.sum(), weights, np.arange(count))


def answer(run: Path, seed: int = 0, count: int = 200) -> Path:
    """Write answers for every stage of a RUN, and set the values in its stage records to match."""
    shared = np.random.default_rng(5).normal(0, 1, count)
    lines = []
    for line in (run / "metrics.jsonl").read_text("utf-8").splitlines():
        record = json.loads(line)
        if record["kind"] == "stage":
            rng = np.random.default_rng([seed, record["step"], len(run.name)])
            losses = [key for key in record if key.endswith("/loss")]
            answers = {key: items_of(record[key], "loss", rng, shared) for key in losses}
            answers["bench/echo/acc"] = items_of(record["bench/echo/acc"], "quiz", rng, shared)
            write_answers(answers_path(run, record["step"]), answers)
            record |= {key: items.mean() for key, items in answers.items()}
            record["bench/avg"] = record["bench/echo/acc"]
        lines.append(json.dumps(record) + "\n")
    (run / "metrics.jsonl").write_text("".join(lines), "utf-8")
    return run


def write_seeds(folder: Path, arm: str, seeds: int, spread: float = 0.02) -> list[str]:
    """Write RUN folders of one arm that differ in the seed, with answers; their losses differ by about `spread`."""
    places = []
    for seed in range(seeds):
        rng = np.random.default_rng([seed, len(arm)])
        records = records_of(arm)
        for record in records:
            shift = rng.normal(0, spread)
            for key in [key for key in record if key.endswith("loss")]:
                record[key] += shift
        prints = {"tokens": "a" * 32, "order": f"{arm}{seed:b<20}", "tokenizer": "t" * 32, "scores": "c" * 32}
        run = write_run(folder / f"{arm}-{seed}", arm, records, seed=seed, config={"seed": seed}, fingerprints=prints)
        places.append(str(answer(run, seed)))
    return places


def write_comparison(folder: Path) -> dict[str, str]:
    """Write the full pipeline: TOKENS, SCORES, two ORDERs and two RUN folders. Return arm to run folder."""
    tokens = write_tokens(folder / "tokens")
    scores = write_scores(folder / "scores", tokens)
    assert len(tokens) == sum(samples_in(41 * documents + 1, SEQ_LEN) for documents in SOURCES.values())
    runs = {}
    plain = Pdpc(stratify_by=None, floor=0.0, ceiling=1.0)  # PD depends on the source here and hardly varies within one
    for arm, preference in (("shuffled", Shuffled()), ("pdpc", plain)):
        order = arrange.run(
            arrange.ArrangeSettings(
                tokens=str(tokens.folder),
                output=str(folder / arm),
                scores=str(scores.folder),
                preference=preference,
                batch_size=16,
            )
        )
        prints = {
            "tokens": tokens.fingerprint,
            "order": order.fingerprint,
            "tokenizer": "t" * 32,
            "scores": scores.fingerprint,
        }
        paths = {
            "tokens": str(tokens.folder),
            "order": str(order.folder),
            "scores": str(scores.folder),
            "slice": "train",
        }
        write_run(folder / "runs" / arm, arm, fingerprints={**prints, "config": "d" * 32}, paths=paths)
        runs[arm] = str(folder / "runs" / arm)
    return runs


@pytest.fixture
def comparison(tmp_path: Path) -> dict[str, str]:
    """Arm to run folder of a complete comparison, shuffled and pdpc."""
    return write_comparison(tmp_path)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a RUN folder without artifacts: make_run(arm, records=None, folder=arm, **run.json keys)."""

    def build(arm: str, records: list[dict[str, Any]] | None = None, folder: str = "", **info: Any) -> Path:
        return write_run(tmp_path / "runs" / (folder or arm), arm, records, **info)

    return build


@pytest.fixture
def with_seeds(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Write RUN folders with answers: with_seeds(shuffled=3, pdpc=3) returns a value for `runs`."""

    def build(**seeds: int) -> dict[str, Any]:
        return {arm: write_seeds(tmp_path / "runs", arm, count) for arm, count in seeds.items()}

    return build


@pytest.fixture
def metrics() -> Callable[..., list[dict[str, Any]]]:
    """The records of a run: metrics(arm, stages=4, stage_tokens=1000)."""
    return records_of


@pytest.fixture
def in_memory() -> Callable[..., Run]:
    """A Run without a folder: in_memory(name, records, **run.json keys)."""

    def build(arm: str, records: list[dict[str, Any]], **info: Any) -> Run:
        kinds = {kind: [record for record in records if record["kind"] == kind] for kind in ("train", "stage")}
        return Run(arm, Path(arm), {}, {"status": "finished"} | info, kinds["train"], kinds["stage"], [])

    return build
