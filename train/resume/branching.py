"""Branches of a run: a RUN that begins as another one was at a checkpoint, and reads other data from there.

Runs that branch from one trunk share its weights, optimizer state and records up to that step, so the noise of the seed
cancels in their difference, and the shared steps are trained only once.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curriculum.artifact.create import publish
from curriculum.artifact.drafts import draft_of, remove_abandoned
from curriculum.artifact.files import ArtifactError, copy_file, write_text
from curriculum.artifact.manifest import open_manifest
from curriculum.order.order import Order, ancestors, replan_step
from train import checkpoint
from train.evaluation.answers import answers_path
from train.records.layout import CHECKPOINTS, METRICS, RUN, WANDB_ID
from train.records.run_json import as_text, checksum_of, read_run
from train.settings import TrainSettings
from train.tracking import read_metrics
from train.tracking.metrics import supersede_record

KEEP = "checkpoints.keep_every=N or checkpoints.keep_stages=true"
OF_THE_END = ("cursor", "consumed_hash", "checksum")
"""Facts of a finished run that its branch does not have."""


def begin_branch(settings: TrainSettings, order: Order, output: Path) -> None:
    """Make the RUN folder `output` as the run in `branch_of` was at the step at which `order` was replanned.

    Nothing happens without `branch_of`, or if the branch has begun. Raises ValueError if the run cannot be branched
    there, or `output` holds a run that is not a branch.
    """
    if settings.branch_of is None:
        return
    if (output / RUN).is_file():
        if "branch" not in read_run(output):
            raise ValueError(
                f"output={output} holds a run that is not a branch: choose another output, or leave out "
                f"branch_of={settings.branch_of}"
            )
        return
    if output.is_dir() and any(output.iterdir()):
        return  # a branch that has lost its run.json, or a folder that claiming refuses
    at = branch_point(settings, order)
    copy_at(Path(settings.branch_of), at, output)


def branch_point(settings: TrainSettings, order: Order) -> Path:
    """Return the checkpoint that the run in `branch_of` keeps at the step at which `order` was replanned.

    Raises ValueError if the order was not replanned from that run's, or the run has no such checkpoint.
    """
    trunk, given = Path(settings.branch_of or ""), f"data.order={settings.data.order}"
    own, step = read_run(trunk)["fingerprints"].get("order"), replan_step(order)
    if step is None or own not in ancestors(order):
        raise ValueError(
            f"branch_of={trunk}: {given} was not replanned from the order of that run ({own}): make it with pdpc "
            "replan from that order"
        )
    kept = {checkpoint.step_of(folder): folder for folder in checkpoint.candidates(trunk / CHECKPOINTS)}
    if step not in kept:
        steps = ", ".join(map(str, sorted(kept))) or "none"
        raise ValueError(
            f"branch_of={trunk} keeps no checkpoint of step {step}, at which {given} was replanned (it keeps {steps}): "
            f"replan at one of those, or train that run with {KEEP}"
        )
    return kept[step]


def copy_at(trunk: Path, at: Path, output: Path) -> None:
    """Make the RUN folder `output` as the run `trunk` was at its checkpoint `at`.

    Checkpoint files are hard links where the file system has them, else copies. Nothing in `trunk` is modified.
    """
    manifest = open_manifest(at, checkpoint.KIND)
    output.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(output.parent, output.name)
    draft = draft_of(output)
    try:
        there = draft / CHECKPOINTS / at.name
        there.mkdir(parents=True)
        for path in sorted(at.iterdir()):
            _link(path, there / path.name)
        step, records = int(manifest.facts["step"]), dict(manifest.facts.get("records", {}))
        records.pop(WANDB_ID, None)  # a branch is a W&B run of its own
        for name, entry in records.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            _copy_start(trunk / name, draft / name, int(entry["bytes"]))
        _copy_evaluation(trunk, step, draft)
        facts = _facts(trunk, step)
        write_text(draft / RUN, as_text({**facts, "checksum": checksum_of(facts)}))
        if output.is_dir():
            output.rmdir()
        publish(draft, output)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _copy_evaluation(trunk: Path, step: int, output: Path) -> None:
    """Copy the evaluation of a step, which was made after its checkpoint, if that ended a stage."""
    answers = answers_path(trunk, step)
    if not answers.is_file():
        return
    for record in read_metrics(trunk / METRICS):
        if (record["kind"], record["step"]) == ("stage", step):
            supersede_record(output / METRICS, record)
    copied = answers_path(output, step)
    copied.parent.mkdir()
    copy_file(answers, copied)


def _facts(trunk: Path, step: int) -> dict[str, Any]:
    """Return the facts of a branch: the trunk's, with the attempts that led to its checkpoint."""
    facts: Mapping[str, Any] = read_run(trunk)
    kept = {key: value for key, value in facts.items() if key not in OF_THE_END}
    kept["lives"] = [life for life in facts.get("lives", []) if life["step"] <= step]
    kept["status"] = f"branched from {trunk} at step {step}"
    kept["branch"] = {"of": str(trunk.absolute()), "step": step, "order": facts["fingerprints"].get("order")}
    plain: dict[str, Any] = json.loads(json.dumps(kept))
    return plain


def _link(path: Path, target: Path) -> None:
    if path.is_symlink():
        raise ArtifactError(f"{path} is a link, but a checkpoint holds files only: copy the target there")
    try:
        os.link(path, target)
    except OSError:
        _copy_start(path, target, path.stat().st_size)


def _copy_start(path: Path, target: Path, size: int) -> None:
    """Copy the first `size` bytes of a file; of one that is shorter or missing, what there is."""
    with open(target, "xb") as new:
        if path.is_file():
            with open(path, "rb") as old:
                while size > 0 and (block := old.read(min(size, 8 << 20))):
                    new.write(block)
                    size -= len(block)
