"""The files that `fuzz` changes, one of every format that is opened, and the readers that open them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from curriculum.artifact.manifest import kind_of, open_manifest, verify
from curriculum.order.order import Order
from curriculum.preference import PREFERENCES
from curriculum.scores.own import OwnScores
from curriculum.scores.scores import Scores
from curriculum.scores.sums import sum_up
from curriculum.tokens.bytes import byte_lengths
from curriculum.tokens.encoded import metadata_of, summary_of
from curriculum.tokens.foreign.datatrove import open_datatrove
from curriculum.tokens.foreign.files import ForeignFile
from curriculum.tokens.foreign.megatron import open_megatron
from curriculum.tokens.tokenizer import TextTokenizer
from curriculum.tokens.tokens import Tokens
from curriculum.work.chunks import Chunk, ChunkFolder
from launch.evaluate.stages import own_settings
from models import huggingface
from tests.torture import poison
from tests.torture.material import STEPS
from train import checkpoint
from train.evaluation.answers import Items, read_answers, write_answers
from train.evaluation.attempts import Attempts
from train.records.consumed import consumed_at, forget_consumed, read_consumed
from train.records.run_json import read_run
from train.records.skipped import skipped_until
from train.report.records import read_run as read_report
from train.report.wandb.replay import wandb_settings
from train.resume.lineage import ChangedRun, check_resume
from train.settings import TrainSettings
from train.tracking import read_metrics

CHECKPOINT = f"run/checkpoints/step_{STEPS[-1]:08d}"
CHUNK = Chunk("text", 0, 0, 8)
PLAN = {"tokens": 8, "name": "plan"}


def make_all(root: Path) -> None:
    """Write a file of every format into `root`."""
    poison.make_all(root)
    run = root / "run"
    (run / "config.json").write_text(json.dumps(_as_dict(root)))
    (run / "skipped.jsonl").write_text(
        "".join(json.dumps({"step": s, "reason": "spike", "samples": [1, 2]}) + "\n" for s in (1, 2, 3))
    )
    (run / "evaluations").mkdir()
    told_of = {"running": {"task": "a", "step": 2, "asked": True}, "asked": {"a": 1}, "ended": {"b": [2]}}
    (run / "evaluations" / "attempts.json").write_text(json.dumps(told_of))
    ids = np.arange(5)
    write_answers(run / "evaluations" / "step_00000004.parquet", {"val/loss": Items(ids, ids * 0.5, ids + 1.0)})
    folder = ChunkFolder(root / "chunks", PLAN)
    folder.begin()
    folder.write_blocks(CHUNK, [{"ids": np.arange(8, dtype=np.uint16)}, summary_of({"documents": 3})])
    folder.note("plan_of_text", {"places": 8})
    foreign = root / "foreign"
    foreign.mkdir()
    _write_megatron(foreign)
    np.arange(24, dtype="<u2").tofile(foreign / "data.ds")
    np.array([10, 24], dtype="<u8").tofile(foreign / "data.ds.index")
    (foreign / "table.csv").write_text("progress,low,high\n0,1,3\n0.5,2,2\n1,3,1\n")
    scores = {"sample": pa.array(range(20)), "mine": pa.array(np.linspace(0, 1, 20), pa.float32())}
    pq.write_table(pa.table(scores), foreign / "own.parquet")


def _as_dict(root: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from tests.torture.material import settings_of

    settings: TrainSettings = settings_of(root)
    return asdict(settings)


def _write_megatron(folder: Path) -> None:
    from curriculum.tokens.foreign.megatron import HEADER, MAGIC

    lengths = np.array([4, 6], dtype="<i4")
    np.arange(10, dtype="<i4").tofile(folder / "data.bin")
    head = HEADER.pack(MAGIC, 1, 4, 2, 3)
    places, bounds = np.array([0, 16], dtype="<i8"), np.array([0, 1, 2], dtype="<i8")
    (folder / "data.idx").write_bytes(head + lengths.tobytes() + places.tobytes() + bounds.tobytes())


def _tokens(root: Path) -> None:
    for name in ("train", "validation"):
        tokens = Tokens.open(root / "tokens", name)
        tokens.sample(np.arange(min(len(tokens), 3)))
        if tokens.documents:
            tokens.document(0), tokens.origin(0)
        if len(tokens):
            tokens.documents_in(len(tokens) - 1)


def _order(root: Path) -> None:
    order = Order.open(root / "order")
    n = min(len(order), 8)
    order[0:n], order.cell[0:n], order.bucket[0:n], order.stage[0:n], order.plan[0:2], order.counts[0:2]


def _scores(root: Path) -> None:
    scores = Scores.open(root / "scores", "validation")
    scores.check(Tokens.open(root / "tokens", "validation"))
    scores.column("pd")
    sum_up(root / "scores" / "validation.parquet", Tokens.open(root / "tokens", "validation"))


def _artifact(name: str) -> Callable[[Path], None]:
    def read(root: Path) -> None:
        open_manifest(root / name, kind_of(root / name))
        verify(root / name)

    return read


def _checkpoint(root: Path) -> None:
    checkpoint.verified(root / CHECKPOINT)
    checkpoint.read_weights(root / CHECKPOINT)
    with contextlib.suppress(ChangedRun):  # a made-up checkpoint, which has read no order
        check_resume(root / CHECKPOINT, Order.open(root / "order"))


def _weights(root: Path) -> None:
    checkpoint.read_weights(root / CHECKPOINT)


def _records(root: Path) -> None:
    run = root / "run"
    checkpoint.damaged_records(run, open_manifest(root / CHECKPOINT, checkpoint.KIND))
    read_metrics(run / "metrics.jsonl")


def _skipped(root: Path) -> None:
    checkpoint.damaged_records(root / "run", None)
    skipped_until(root / "run" / "skipped.jsonl", 2)


def _consumed(root: Path) -> None:
    run = root / "run"
    read_consumed(run)
    consumed_at(run, 2)
    forget_consumed(run, 3)


def _attempts(root: Path) -> None:
    attempts = Attempts(root / "run", 4)
    attempts.begin("a")
    attempts.end()


def _chunks(root: Path) -> None:
    folder = ChunkFolder(root / "chunks", PLAN)
    folder.check()
    first, last = folder.blocks(CHUNK)
    assert len(first) + len(last) > 0
    metadata_of(last) if "told" in last else None
    folder.noted("plan_of_text")


def _tokenizer(root: Path) -> None:
    byte_lengths.cache_clear()
    from curriculum.tokens.bytes import token_bytes

    token_bytes.cache_clear()
    TextTokenizer.open(root / "tokens" / "tokenizer")
    byte_lengths(root / "tokens" / "tokenizer")


def _foreign(opened: ForeignFile) -> None:
    for _ in opened.ends():
        pass


def _hf(root: Path) -> None:
    huggingface.load(root / "hf", torch.float32)


def _report(root: Path) -> None:
    read_report("a", root / "run")
    wandb_settings(root / "run")
    own_settings(root / "run")


PLACES: dict[str, Callable[[Path], None]] = {
    "tokens/manifest.json": _tokens,
    "tokens/train.ids.bin": _tokens,
    "tokens/train.starts.bin": _tokens,
    "tokens/tokenizer/tokenizer.json": _tokenizer,
    "tokens/tokenizer/tokenizer_config.json": _tokenizer,
    "order/manifest.json": _order,
    "order/ids.bin": _order,
    "order/blocks.bin": _order,
    "scores/manifest.json": _scores,
    "scores/validation.parquet": _scores,
    f"{CHECKPOINT}/manifest.json": _checkpoint,
    f"{CHECKPOINT}/rank_00000.safetensors": _weights,
    "run/run.json": lambda root: read_run(root / "run") and None,
    "run/config.json": _report,
    "run/metrics.jsonl": _records,
    "run/skipped.jsonl": _skipped,
    "run/consumed/world_00002_rank_00000_width_4.bin": _consumed,
    "run/evaluations/attempts.json": _attempts,
    "run/evaluations/step_00000004.parquet": lambda root: (
        read_answers(root / "run" / "evaluations" / "step_00000004.parquet") and None
    ),
    "chunks/plan.json": _chunks,
    "chunks/text.0000000.chunk": _chunks,
    "chunks/plan_of_text.json": _chunks,
    "foreign/data.idx": lambda root: _foreign(open_megatron(root / "foreign" / "data")),
    "foreign/data.ds.index": lambda root: _foreign(open_datatrove(root / "foreign" / "data.ds")),
    "foreign/table.csv": lambda root: PREFERENCES["table"](file=str(root / "foreign" / "table.csv")) and None,
    "foreign/own.parquet": lambda root: OwnScores(root / "foreign" / "own.parquet").fingerprint and None,
    "hf/config.json": _hf,
    "hf/model.safetensors": _hf,
}
"""Files under the root, and the functions that open them."""
