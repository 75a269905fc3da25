"""Stages of a run evaluated again."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from curriculum.artifact.files import ArtifactError, reading
from launch.evaluate.questions import questions_of, show
from launch.evaluate.settings import FAILED_STAGES, EvaluateSettings
from models.decoder import Decoder
from train import checkpoint
from train.checkpoint.decoder import load_decoder
from train.distributed.collectives import Collectives
from train.distributed.world import World
from train.evaluation.answers import OTHER_TASK_FILES, Evaluated, answers_path, write_answers
from train.evaluation.attempts import forget_attempts
from train.evaluation.evaluate import FAILED, evaluate
from train.evaluation.harness.tasks import BenchmarkSettings, task_files_fingerprint
from train.evaluation.heldout import HeldoutSettings
from train.records.config_json import CONFIG, read_config
from train.records.layout import CHECKPOINTS
from train.records.run_json import read_run
from train.resume.runfolder import RunFolder
from train.tracking import METRICS, Record, read_metrics
from train.tracking.metrics import supersede_record

log = logging.getLogger(__name__)


T = TypeVar("T")


MAY_DIFFER = (
    *("heldout.batch_size", "benchmarks.batch_size", "benchmarks.task_paths"),
    *("benchmarks.task_code", "benchmarks.offline", "benchmarks.task_timeout_s"),
)
"""Keys allowed with `stages`: how the run's own questions are processed, and where the task files are now."""


def evaluate_stages(settings: EvaluateSettings, run: Path, overrides: Sequence[str], world: World) -> int:
    """Repeat the run's own stage-end evaluations, and replace the values in its records.

    Holds the run's lock, so that nothing else writes to the run meanwhile.
    """
    facts = read_run(run)
    heldout, benchmarks = _own_settings(run, settings, overrides)
    asked = questions_of(run, facts, heldout, benchmarks)
    before, now = facts["fingerprints"].get("benchmarks"), task_files_fingerprint(benchmarks)
    if before != now:
        if not any(word.lstrip("+").startswith("benchmarks.task_paths=") for word in overrides):
            raise ArtifactError(
                f"the task files that {run / CONFIG} names (benchmarks.task_paths={benchmarks.task_paths}) are not the "
                "ones that the run started with: restore them, or name the folders to use: benchmarks.task_paths=[...]"
            )
        log.warning("the task files differ from those that run %s started with: its stages and the report say so", run)
    claimed = world.first_does(lambda: RunFolder.claim(run, wait_s=0.0))
    try:
        chosen = world.first_does(lambda: _chosen(run, str(settings.stages)))
        records: list[Record] = Collectives(world).gather("stages", chosen)[0]
        failures = 0
        for record in records:
            started = time.perf_counter()
            decoder = _as_trained(run, record["step"], facts).to(world.device)
            found = evaluate(decoder, asked, world)
            failures += bool(found.failed)
            kept = {key: record[key] for key in ("kind", "stage", "step", "tokens")}
            made = {**kept, **found.values, "time/evaluation_s": time.perf_counter() - started}
            if before != now:
                made[OTHER_TASK_FILES] = now or "none"

            def keep(made: Record = made, found: Evaluated = found) -> None:
                write_answers(answers_path(run, made["step"]), found.answers)
                supersede_record(run / METRICS, made)

            world.first_does(keep)
            log.info("stage %s, step %s", record["stage"], record["step"])
            show(found, run / METRICS)
        if records and not failures:
            world.first_does(lambda: forget_attempts(run))
    finally:
        if claimed is not None:
            claimed.release()
    return int(failures > 0)


def _chosen(run: Path, stages: str) -> list[Record]:
    """Return the records of the stages to evaluate again, by step.

    Raises ValueError if the stage has no record, or none of the stages has a checkpoint left.
    """
    records = read_metrics(run / METRICS) if (run / METRICS).is_file() else []
    last = {record["step"]: record for record in records if record["kind"] == "stage"}
    if stages == FAILED_STAGES:
        wanted = [record for _, record in sorted(last.items()) if record.get(FAILED)]
        if not wanted:
            log.info("no stage of %s is marked as failed: nothing to do", run)
    else:
        wanted = [record for record in last.values() if record["stage"] == int(stages)]
        if not wanted:
            known = ", ".join(str(record["stage"]) for _, record in sorted(last.items())) or "none"
            raise ValueError(f"stages={stages}: run {run} has no record of this stage: use one of {known}")
    there: list[Record] = []
    gone: list[Record] = []
    for record in wanted:
        folder = checkpoint.folder_of(run / CHECKPOINTS, record["step"])
        (there if folder.is_dir() else gone).append(record)
    names = ", ".join(f"{record['stage']} (step {record['step']})" for record in gone)
    if gone and not there:
        raise ValueError(
            f"the checkpoint of stage {names} of run {run} no longer exists: train with "
            "checkpoints.keep_stages=true to keep the checkpoints of all stages"
        )
    if gone:
        log.warning("the checkpoint of stage %s no longer exists: its record is unchanged", names)
    return there


def _own_settings(
    run: Path, settings: EvaluateSettings, overrides: Sequence[str]
) -> tuple[HeldoutSettings, BenchmarkSettings]:
    """Return the run's stage-end evaluation settings, with the MAY_DIFFER keys given on the command line.

    Raises ValueError for any other key: the stages of a run must stay comparable.
    """
    given = [word.lstrip("+").partition("=")[0] for word in overrides]
    other = [key for key in given if key.startswith(("heldout.", "benchmarks.")) and key not in MAY_DIFFER]
    if other:
        raise ValueError(
            f"{other[0]} cannot change with stages={settings.stages}, which uses the run's own setting: leave it out "
            f"(only {', '.join(MAY_DIFFER)} may differ)"
        )
    heldout, benchmarks = own_settings(run)

    def now(name: str, own: T) -> T:
        known = [item.name for item in fields(own)]  # type: ignore[arg-type]
        values = {key: getattr(getattr(settings, name), key) for key in known if f"{name}.{key}" in given}
        return replace(own, **values)  # type: ignore[type-var]

    return now("heldout", heldout), _confined(run, now("benchmarks", benchmarks), given)


def _confined(run: Path, benchmarks: BenchmarkSettings, given: Sequence[str]) -> BenchmarkSettings:
    """Return the settings without the network and without code of task files, unless the user asked for these.

    The user named a run: what its config.json names was not their word, and the folder may be another's.
    """
    if not benchmarks.offline and "benchmarks.offline" not in given:
        log.info("offline, although run %s was not: allow the network with benchmarks.offline=false", run)
        benchmarks = replace(benchmarks, offline=True)
    if benchmarks.task_paths and not {"benchmarks.task_paths", "benchmarks.task_code"} & set(given):
        benchmarks = replace(benchmarks, task_code=False)
    return benchmarks


def own_settings(run: Path) -> tuple[HeldoutSettings, BenchmarkSettings]:
    """Return a run's stage-end evaluation settings from its config.json, ignoring keys unknown to this PDPC version.

    Raises ArtifactError naming the file.
    """
    path = run / CONFIG
    if not path.is_file():
        raise ArtifactError(f"{path}, which holds the run's evaluation settings, is missing: restore it")
    kept = read_config(run)

    def own(name: str, kind: type[T]) -> T:
        known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
        return kind(**{key: value for key, value in kept.get(name, {}).items() if key in known})

    with reading(path, "restore it"):
        return own("heldout", HeldoutSettings), own("benchmarks", BenchmarkSettings)


def _as_trained(run: Path, step: int, facts: dict[str, Any]) -> Decoder:
    """Return a checkpoint's decoder in the precision that the run uses for stage-end evaluations."""
    decoder = load_decoder(checkpoint.folder_of(run / CHECKPOINTS, step))
    return decoder.bfloat16() if facts["identity"].get("precision") == "bf16" else decoder
