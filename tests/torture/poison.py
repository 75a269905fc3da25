"""Files that run code in a careless reader, in place of every file that is opened: no code is run.

A case is one payload in one place. If a manifest lists the file, its entry is forged to match: even then the reader may
refuse the file or misread it, but never run it.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import marshal
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from curriculum.artifact.files import ArtifactError, hash_file
from curriculum.artifact.manifest import MANIFEST, checksum_of, open_manifest
from curriculum.order.order import Order
from curriculum.scores.scores import Scores
from curriculum.tokens.tokenizer import TextTokenizer
from curriculum.tokens.tokens import Tokens
from models import huggingface
from models.decoder import build
from tests.torture.campaign import Tally
from tests.torture.material import STEPS, make_run, settings_of
from tests.torture.ranks import CONFIG, quiet
from train import checkpoint
from train.config import compose
from train.inputs import open_inputs, verify_inputs
from train.records.consumed import forget_consumed
from train.records.run_json import read_run
from train.report.records import read_run as read_report
from train.settings import TrainSettings
from train.tracking import read_metrics

NEWEST = f"run/checkpoints/step_{STEPS[-1]:08d}"


class _Evil:
    def __init__(self, function: Any, words: tuple[Any, ...]) -> None:
        self._made_by = function, words

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self._made_by


def payloads(canary: Path) -> dict[str, bytes]:
    """Return files by name, each of which creates the canary file when a careless reader opens it."""
    shell = f"touch {canary}"
    source = f"import os; os.system({shell!r})"
    evil = _Evil(os.system, (shell,))
    made = {f"pickle {protocol}": pickle.dumps(evil, protocol) for protocol in range(6)}
    made["pickle of exec"] = pickle.dumps(_Evil(exec, (source,)))
    for name, zipped in (("torch zip", True), ("torch legacy", False)):
        buffer = io.BytesIO()
        torch.save(evil, buffer, _use_new_zipfile_serialization=zipped)
        made[name] = buffer.getvalue()
    for name, write in (("npy", np.save), ("npz", np.savez)):
        buffer = io.BytesIO()
        write(buffer, np.array([evil], dtype=object))
        made[name] = buffer.getvalue()
    made["yaml"] = f"!!python/object/apply:os.system [{shell!r}]\n".encode()
    made["marshal"] = bytes(16) + marshal.dumps(compile(source, "evil", "exec"))
    target = {"_target_": "os.system", "command": shell, "py/reduce": [{"py/function": "os.system"}, [shell]]}
    made["json"] = json.dumps({**target, "auto_map": {"AutoModel": "evil.Evil"}, "kind": "train", "step": 1}).encode()
    made["python"] = source.encode()
    header = json.dumps({"__metadata__": {"starts": pickle.dumps(evil, 0).decode()}}).encode()
    made["safetensors"] = len(header).to_bytes(8, "little") + header + pickle.dumps(evil)
    return made


def _newest(root: Path) -> None:
    found = checkpoint.newest(root / "run" / "checkpoints")
    assert found is not None
    if found.name == Path(NEWEST).name:
        checkpoint.read_weights(found)
    raise ArtifactError("skipped")


def _start(root: Path) -> None:
    settings = settings_of(root)
    verify_inputs(settings)
    open_inputs(settings)


def _order(root: Path) -> None:
    order = Order.open(root / "order")
    order[0 : len(order)], order.cell[0 : len(order)], order.plan[:]
    raise ArtifactError("read as numbers")


def _tokens(root: Path) -> None:
    for name in ("train", "validation"):
        tokens = Tokens.open(root / "tokens", name)
        tokens.sample([0]), tokens.documents_in(0)
    raise ArtifactError("read as numbers")


def _records(root: Path) -> None:
    run = root / "run"
    damaged = checkpoint.damaged_records(run, open_manifest(root / NEWEST, checkpoint.KIND))
    assert damaged, "the record is not named"
    checkpoint.set_aside(run, damaged)
    if (run / "metrics.jsonl").exists():
        read_metrics(run / "metrics.jsonl")
    forget_consumed(run, 1)
    raise ArtifactError("named")


def _run(root: Path) -> None:
    read_run(root / "run")


def _tokenizer(root: Path) -> None:
    TextTokenizer.open(root / "tokens" / "tokenizer")


def _scores(root: Path) -> None:
    Scores.open(root / "scores", "validation").column("pd")


def _report(root: Path) -> None:
    read_report("a", root / "run")
    raise ArtifactError("the report notes what it cannot read")


def _configs(root: Path) -> None:
    before, compose.CONFIGS = compose.CONFIGS, root / "configs"
    try:
        compose.compose("train", TrainSettings, ["output=o", "arm=a", "data.tokens=t", "data.order=o"])
    finally:
        compose.CONFIGS = before


def _hugging_face(root: Path) -> None:
    huggingface.load(root / "hf", torch.float32)


def _scorer(root: Path) -> None:
    huggingface.load_scorer(root / "hf", torch.float32, torch.device("cpu"), end_of_text=0, seq_len=16)


PLACES: dict[str, Callable[[Path], None]] = {
    f"{NEWEST}/rank_00000.safetensors": _newest,
    f"{NEWEST}/manifest.json": _newest,
    "run/run.json": _run,
    "run/config.json": _report,
    "run/config.yaml": _report,
    "run/metrics.jsonl": _records,
    "run/wandb_id": _records,
    "run/consumed/world_00002_rank_00000_width_4.bin": _records,
    "tokens/manifest.json": _start,
    "tokens/train.ids.bin": _tokens,
    "tokens/train.starts.bin": _tokens,
    "tokens/tokenizer/tokenizer.json": _tokenizer,
    "tokens/tokenizer/tokenizer_config.json": _tokenizer,
    "order/manifest.json": _start,
    "order/ids.bin": _order,
    "order/blocks.bin": _order,
    "scores/manifest.json": _start,
    "scores/validation.parquet": _scores,
    "configs/train.yaml": _configs,
    "configs/model/demo.yaml": _configs,
    "hf/config.json": _hugging_face,
    "hf/model.safetensors": _hugging_face,
    "hf/model.safetensors.index.json": _hugging_face,
    "hf/pytorch_model.bin": _scorer,
}
"""Files under the root, and the functions that open them. Readers that tolerate damage raise an error here instead."""
FULL = len(PLACES) * 16
STRIDE = 101
"""Coprime with the number of cases, so that a few attempts visit many places."""


def make_all(root: Path) -> None:
    """Write a run with its inputs, the configs and a Hugging Face folder into `root`."""
    make_run(root)
    decoder = build(CONFIG, 0)
    state = {name: parameter.detach() for name, parameter in decoder.named_parameters()}
    tokenizer = root / "tokens" / "tokenizer"
    huggingface.export(root / "hf", CONFIG, state, dtype=torch.float32, tokenizer_folder=tokenizer, card="")
    shutil.copytree(compose.CONFIGS, root / "configs")
    (root / "hf" / "evil.py").write_text("raise SystemExit('remote code was run')\n")


def forge(path: Path) -> None:
    """Forge the entry of the manifest that lists a file, if any, to match its contents."""
    for folder in (path.parent, path.parent.parent):
        manifest = folder / MANIFEST
        name = path.relative_to(folder).as_posix()
        if not manifest.is_file() or path == manifest:
            continue
        fields = json.loads(manifest.read_text())
        if name in fields["files"]:
            entry = hash_file(path)
            fields["files"][name] = {"bytes": entry.bytes, "xxh3_128": entry.xxh3_128}
            manifest.write_text(json.dumps({**fields, "checksum": checksum_of(fields)}))


def problem_of(root: Path, place: str, data: bytes, canary: Path, plain: bool = False) -> str | None:
    """Put a payload in its place and open it; return what went wrong, None if it was refused and no code ran.

    `plain`: the payload is JSON, which a reader of JSON may accept.
    """
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    if place in ("hf/model.safetensors.index.json", "hf/pytorch_model.bin"):
        (root / "hf" / "model.safetensors").unlink(missing_ok=True)
    forge(path)
    raised: Exception | None = None
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            PLACES[place](root)
    except Exception as error:
        raised = error
    if canary.exists():
        canary.unlink()
        return f"code was run ({raised})"
    if raised is None and not (plain and place.endswith(".json")):
        return "it was accepted"
    if (
        raised is not None
        and not isinstance(raised, (ValueError, OSError))
        and type(raised).__module__.split(".")[0] in ("builtins", "_pickle")
    ):
        return f"not refused, but {raised!r}"
    return None


def run(count: int, seed: int, work: Path) -> Tally:
    """Open `count` poisoned files; every payload in every place is one round."""
    tally = Tally("poison", seed=seed)
    canary = work / "canary"
    bad = payloads(canary)
    root, whole = work / "root", work / "whole"
    make_all(root)
    shutil.copytree(root, whole)
    settings_of(root)
    pairs = list(itertools.product(PLACES, bad))
    with quiet():
        for case in range(seed, seed + count):  # consecutive, so that a round covers all pairs
            place, name = pairs[case * STRIDE % len(pairs)]
            top = place.split("/")[0]
            shutil.rmtree(root / top)
            shutil.copytree(whole / top, root / top)
            problem = problem_of(root, place, bad[name], canary, plain=name == "json")
            tally.add(case, problem and f"{name} as {place}: {problem}")
            shutil.rmtree(root / top)
            shutil.copytree(whole / top, root / top)
    return tally
