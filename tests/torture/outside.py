"""Names and links that lead out of a folder: nothing outside it is opened, written, renamed or removed (T24).

A case is one payload: a file name in a manifest, a link instead of a file or folder of an artifact or a RUN, or a name
that becomes a file name. An audit hook of the interpreter sees every path that is opened or changed, with links
resolved; an outside tree is compared with its state before. Passed: neither found anything, and payloads that must be
refused were.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from curriculum.artifact.files import hash_file
from curriculum.artifact.manifest import MANIFEST, checksum_of, open_manifest, verify
from curriculum.order.order import Order
from curriculum.scores.scores import Scores
from curriculum.tokens.foreign.megatron_export import MegatronSettings
from curriculum.tokens.foreign.megatron_export import run as megatron
from curriculum.tokens.tokens import Tokens
from models.huggingface.folder import weight_files
from tests.torture import poison
from tests.torture.campaign import Tally
from tests.torture.material import STEPS, settings_of
from tests.torture.ranks import quiet
from train import checkpoint
from train.config import compose
from train.evaluation.harness.pack import write_pack
from train.evaluation.harness.tasks import BenchmarkSettings
from train.resume.runfolder import RunFolder
from train.settings import TrainSettings

CHECKPOINT = f"run/checkpoints/step_{STEPS[-1]:08d}"
ARTIFACTS = ("tokens", "order", "scores", CHECKPOINT)
NAMES = ("{up}/file", "{outside}/file", "x/../{up}/file", "./{up}/file", "x/../../{up}/file")
FILES = {
    "tokens": ("train.ids.bin", "train.starts.bin", "tokenizer", "tokenizer/tokenizer.json", MANIFEST),
    "order": ("ids.bin", "blocks.bin", MANIFEST),
    "scores": ("validation.parquet",),
    CHECKPOINT: ("rank_00000.safetensors", MANIFEST),
}
RECORDS = (
    *("metrics.jsonl", "run.json", "wandb_id", "consumed", "checkpoints", "evaluations", "stacks", "wandb"),
    *("consumed/world_00002_rank_00000_width_4.bin", "evaluations/attempts.json", "stacks/rank_0.txt"),
)
ABSENT = ("skipped.jsonl", ".lock", "config.yaml", "consumed/world_00002_rank_00000_width_4.tmp")
CHOSEN = ("experiment={up}/x", "+experiment={outside}/x", "model=../experiment/demo", "+../../x=y")
SLICES = ("../train", "../outside/file", "/etc/passwd")
WEIGHTS = ("../outside/w.safetensors", "{outside}/w.safetensors", "x/../../w.safetensors", "..")
TASK = {
    **{"dataset_path": "json", "output_type": "multiple_choice", "test_split": "test"},
    **{"doc_to_text": "{{q}}", "doc_to_choice": ["a", "b"], "doc_to_target": 0},
}
FILE_EVENTS = {
    *("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink", "os.listdir"),
    *("os.scandir", "shutil.rmtree", "shutil.copyfile", "shutil.move", "os.chmod", "os.utime"),
}
_fence: list[tuple[str, list[str]]] = []
"""The watched tree, and the events seen in it."""


def _seen(event: str, words: tuple[Any, ...]) -> None:
    if not _fence or event not in FILE_EVENTS:
        return
    tree, seen = _fence[-1]
    for word in words[:2]:
        if isinstance(word, (str, bytes, os.PathLike)):
            path = os.path.realpath(os.fsdecode(word))
            if path == tree or path.startswith(f"{tree}/"):
                seen.append(f"{event} {path}")


_hooked: list[bool] = []


@contextmanager
def fence(tree: Path) -> Iterator[list[str]]:
    """Yield a list that collects what the block opens or changes in a tree."""
    if not _hooked:
        sys.addaudithook(_seen)  # audit hooks cannot be removed; without a fence it does nothing
        _hooked.append(True)
    seen: list[str] = []
    _fence.append((os.path.realpath(tree), seen))
    try:
        yield seen
    finally:
        _fence.pop()


def digests(tree: Path) -> dict[str, str]:
    """Return the names in a tree with digests of the contents."""
    return {
        str(path.relative_to(tree)): hash_file(path).xxh3_128 if path.is_file() else "folder"
        for path in sorted(tree.rglob("*"))
    }


@dataclass(frozen=True)
class Payload:
    """A name or link that leads out: it is put in place, and then opened by the product."""

    put: Callable[[Path, Path], None]
    """Called with the root and the outside tree."""
    meet: Callable[[Path, Path], object]
    refused: bool = True
    """Whether it must be refused; if not, it is enough that nothing outside is touched."""


def _open(root: Path, name: str) -> None:
    """Open an artifact and read all of it."""
    folder = root / name
    kind = "checkpoint" if name == CHECKPOINT else name
    open_manifest(folder, kind)
    verify(folder)
    if kind == "tokens":
        Tokens.open(folder).sample(np.arange(3))
    elif kind == "order":
        Order.open(folder)[0:4]
    elif kind == "scores":
        Scores.open(folder, "validation").column("pd")
    else:
        checkpoint.read_weights(folder)


def in_manifest(artifact: str, change: Callable[[dict[str, Any], Path, Path], None]) -> Payload:
    """Return a payload that changes a manifest and forges its checksum."""

    def put(root: Path, outside: Path) -> None:
        path = root / artifact / MANIFEST
        fields = json.loads(path.read_text())
        change(fields, path.parent, outside)
        path.write_text(json.dumps({**fields, "checksum": checksum_of(fields)}))

    return Payload(put, lambda root, outside: _open(root, artifact))


def lists(name: str) -> Callable[[dict[str, Any], Path, Path], None]:
    """Make a manifest list the outside file under a name."""

    def change(fields: dict[str, Any], folder: Path, outside: Path) -> None:
        entry = hash_file(outside / "file")
        fields["files"][name.format(outside=outside, up=os.path.relpath(outside, folder))] = asdict(entry)

    return change


def external_data(fields: dict[str, Any], folder: Path, outside: Path) -> None:
    """Make a manifest refer to the outside file as external data, which only adopted tokens may."""
    path = outside / "file"
    fields["outside"] = {"x": {"path": str(path), **asdict(hash_file(path))}}


def linked(place: str, meet: Callable[[Path], object], *, dangling: bool = False) -> Payload:
    """Move a file or folder outside and replace it by a link; `dangling`: link to a missing file."""

    def put(root: Path, outside: Path) -> None:
        path, target = root / place, outside / "moved"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            shutil.move(path, target)
        elif not dangling:
            target.write_text("x")
        path.symlink_to(target)

    return Payload(put, lambda root, outside: meet(root))


def _claim(root: Path) -> None:
    RunFolder.claim(root / "run", 0.1).release()


def _newest(root: Path) -> None:
    found = checkpoint.newest(root / "run" / "checkpoints")
    if found is None or found.name != Path(CHECKPOINT).name:
        raise ValueError("passed over")


def nothing(root: Path, outside: Path) -> None:
    """Put nothing in place."""


def composed(word: str) -> Payload:
    """Select a config group from outside the config folder."""

    def meet(root: Path, outside: Path) -> None:
        text = word.format(outside=outside, up=os.path.relpath(outside, compose.CONFIGS / "experiment"))
        compose.compose("train", TrainSettings, ["output=o", "arm=a", "data.tokens=t", "data.order=o", text])

    return Payload(nothing, meet)


def indexed(name: str) -> Payload:
    """Make the index of a Hugging Face folder name weights outside it."""

    def put(root: Path, outside: Path) -> None:
        (root / "hf" / "model.safetensors").unlink()
        weights = {"weight_map": {"lm_head.weight": name.format(outside=outside)}}
        (root / "hf" / "model.safetensors.index.json").write_text(json.dumps(weights))

    return Payload(put, lambda root, outside: weight_files(root / "hf"))


def sourced(name: str) -> Payload:
    """Give a source of the text a name that leads out: its files must get another name, inside."""

    def put(root: Path, outside: Path) -> None:
        path = root / "tokens" / MANIFEST
        fields = json.loads(path.read_text())
        for part in fields["facts"]["slices"].values():
            for row in part["sources"]:
                row["name"] = name.format(outside=outside)
        path.write_text(json.dumps({**fields, "checksum": checksum_of(fields)}))

    def meet(root: Path, outside: Path) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            megatron(MegatronSettings(tokens=str(root / "tokens"), output=str(root / "pairs")))

    return Payload(put, meet, refused=False)


def packed(name: str) -> Payload:
    """Pack a task whose name leads out."""

    def put(root: Path, outside: Path) -> None:
        (root / "tasks").mkdir()
        task = {**TASK, "task": name.format(outside=outside)}
        task["dataset_kwargs"] = {"data_files": {"test": str(root / "tasks" / "data.jsonl")}}
        (root / "tasks" / "mine.yaml").write_text(json.dumps(task))
        (root / "tasks" / "data.jsonl").write_text(json.dumps({"q": "a"}) + "\n")

    def meet(root: Path, outside: Path) -> None:
        tasks = BenchmarkSettings(tasks=[name.format(outside=outside)], task_paths=[str(root / "tasks")])
        write_pack(root / "pack", tasks)

    return Payload(put, meet)


def payloads() -> dict[str, Payload]:
    """Return every payload by name."""
    found: dict[str, Payload] = {}
    for artifact in ARTIFACTS:
        found |= {f"{artifact} lists {name}": in_manifest(artifact, lists(name)) for name in NAMES}
        if artifact != "tokens":
            found[f"{artifact} has external data"] = in_manifest(artifact, external_data)
    for artifact, names in FILES.items():
        for name in names:
            found[f"{artifact}/{name} is a link"] = linked(f"{artifact}/{name}", lambda r, a=artifact: _open(r, a))
    found["the newest checkpoint is a link"] = linked(CHECKPOINT, _newest)
    found |= {f"run/{name} is a link": linked(f"run/{name}", _claim) for name in RECORDS}
    found |= {f"run/{name} is a dangling link": linked(f"run/{name}", _claim, dangling=True) for name in ABSENT}
    found |= {f"override {word}": composed(word) for word in CHOSEN}
    found |= {
        f"tokens slice {name}": Payload(nothing, lambda r, o, n=name: Tokens.open(r / "tokens", n)) for name in SLICES
    }
    found |= {
        f"scores slice {name}": Payload(nothing, lambda r, o, n=name: Scores.open(r / "scores", n)) for name in SLICES
    }
    found |= {f"index names {name}": indexed(name) for name in WEIGHTS}
    found |= {f"source {name}": sourced(name) for name in ("../../{outside}/x", "{outside}/x", "..")}
    return found | {f"task {name}": packed(name) for name in ("../../outside/x", "{outside}/x")}


def problem_of(root: Path, outside: Path, payload: Payload) -> str | None:
    """Put a payload in place and let the product open it; return what went wrong."""
    payload.put(root, outside)
    before, message = digests(outside), ""
    with fence(outside) as seen:
        try:
            payload.meet(root, outside)
        except ValueError as error:
            message = str(error)
    if seen:
        return f"{len(seen)} calls went outside: {seen[:3]} ({message[:100]})"
    if digests(outside) != before:
        return "the outside tree has changed"
    return None if message or not payload.refused else "it was accepted"


FULL = 69
STRIDE = 25


def run(count: int, seed: int, work: Path) -> Tally:
    """Try `count` payloads; FULL of them are one round."""
    tally = Tally("outside", seed=seed)
    whole, root, outside = work / "whole", work / "root", work / "outside"
    with quiet():
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            poison.make_all(root)
        settings_of(root)
        shutil.copytree(root, whole)
        every = payloads()
        for case in range(seed, seed + count):
            name = list(every)[case * STRIDE % len(every)]
            shutil.rmtree(root)
            shutil.copytree(whole, root)
            shutil.rmtree(outside, ignore_errors=True)
            outside.mkdir()
            (outside / "file").write_text("outside\n")
            (outside / "x.yaml").write_text("# @package _global_\narm: outside\n")
            problem = problem_of(root, outside, every[name])
            tally.add(case, problem and f"{name}: {problem}")
    tally.notes.append(f"{len(every)} payloads")
    return tally
