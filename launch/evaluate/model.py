"""One rank's part of `pdpc evaluate`: which weights, which questions, and where the values go."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from curriculum.artifact.files import ArtifactError, reading, write_text
from curriculum.artifact.manifest import MANIFEST
from curriculum.scores.scores import Scores
from curriculum.tokens.tokenizer import TOKENIZER_FILE, tokenizer_fingerprint
from curriculum.tokens.tokens import Tokens
from curriculum.work.printable import printable
from launch.evaluate.settings import FAILED_STAGES, EvaluateSettings
from models import huggingface
from models.decoder import Decoder
from train import checkpoint
from train.checkpoint.decoder import decoder_of, load_decoder
from train.distributed.collectives import Exchange
from train.distributed.world import World
from train.evaluation.answers import EVALUATIONS, Evaluated, answers_path, write_answers
from train.evaluation.attempts import forget_attempts
from train.evaluation.evaluate import FAILED, Questions, evaluate
from train.evaluation.harness.tasks import BenchmarkSettings, check_tasks, task_files_fingerprint
from train.evaluation.heldout import HeldoutSettings
from train.export.export import tokenizer_folder
from train.export.weights import choose_weights
from train.inputs import VALIDATION
from train.resume.runfolder import CHECKPOINTS, RunFolder, read_run
from train.tracking import METRICS, Record, read_metrics
from train.tracking.metrics import supersede_record

log = logging.getLogger(__name__)

T = TypeVar("T")

MAY_DIFFER = (
    *("heldout.batch_size", "benchmarks.batch_size", "benchmarks.task_paths"),
    *("benchmarks.offline", "benchmarks.task_timeout_s"),
)
"""What may be given with `stages`: how the run's own questions are worked through, and where their files lie now."""


def evaluate_asked(settings: EvaluateSettings, overrides: Sequence[str], world: World) -> int:
    """Evaluate what the settings name; every rank calls this. Return 1 when a part failed, else 0."""
    if settings.folder is not None:
        found = _evaluate_folder(settings, Path(settings.folder), world)
        return int(bool(found.failed))
    assert settings.run is not None, "the settings name a run, a folder or a pack"
    if settings.stages is not None:
        return _evaluate_stages(settings, Path(settings.run), overrides, world)
    found = _evaluate_newest(settings, Path(settings.run), world)
    return int(bool(found.failed))


def _evaluate_newest(settings: EvaluateSettings, run: Path, world: World) -> Evaluated:
    """Evaluate the newest checkpoint; keep the values and answers in `evaluations/`, beside those of the run itself."""
    asked = _questions(read_run(run), settings.heldout, settings.benchmarks)
    chosen = choose_weights(run, settings.weights, settings.average)
    found = evaluate(decoder_of(*chosen.read()).to(world.device), asked, world)
    target = run / EVALUATIONS / f"{chosen.name}.json"

    def keep() -> None:
        write_answers(target.with_name(f"{chosen.name}_asked.parquet"), found.answers)
        write_text(target, json.dumps(found.values, indent=1) + "\n")

    world.first_does(keep)
    _show(found, target)
    return found


def _evaluate_folder(settings: EvaluateSettings, folder: Path, world: World) -> Evaluated:
    """Evaluate a Hugging Face folder, or the folder of one checkpoint of a run."""
    check_tasks(settings.benchmarks)
    if (folder / MANIFEST).is_file():
        run = folder.parent.parent
        decoder, tokenizer = load_decoder(folder), tokenizer_folder(run, read_run(run))
    else:
        decoder, tokenizer = huggingface.load(folder, torch.float32), folder
    validation = None
    if settings.tokens is not None:
        validation = Tokens.open(settings.tokens, VALIDATION)
        if not (tokenizer / TOKENIZER_FILE).is_file() or (
            tokenizer_fingerprint(tokenizer) != validation.tokenizer_fingerprint
        ):
            raise ValueError(
                f"tokens={settings.tokens} were made with another tokenizer than {tokenizer} has: give TOKENS prepared "
                f"with tokenizer.name={tokenizer}, or leave tokens out"
            )
    asked = Questions(tokenizer, validation, None, settings.heldout, settings.benchmarks)
    found = evaluate(decoder.eval().to(world.device), asked, world)
    target = Path(settings.output) if settings.output is not None else None
    if target is not None:
        text = json.dumps(found.values, indent=1) + "\n"
        world.first_does(lambda: write_text(target, text))
    _show(found, target)
    return found


def _evaluate_stages(settings: EvaluateSettings, run: Path, overrides: Sequence[str], world: World) -> int:
    """Ask the run's own questions at stage ends again, and put the answers in the place of those in its records.

    The run's lock is held: nothing else writes there meanwhile.
    """
    facts = read_run(run)
    heldout, benchmarks = _own_settings(run, settings, overrides)
    asked = _questions(facts, heldout, benchmarks)
    before, now = facts["fingerprints"].get("benchmarks"), task_files_fingerprint(benchmarks)
    if before != now:
        log.warning("the task files are not those that run %s began with: compare its stages with care", run)
    claimed = world.first_does(lambda: RunFolder.claim(run, wait_s=0.0))
    try:
        chosen = world.first_does(lambda: _chosen(run, str(settings.stages)))
        records: list[Record] = Exchange(world).gather("stages", chosen)[0]
        still = 0
        for record in records:
            began = time.perf_counter()
            decoder = _as_trained(run, record["step"], facts).to(world.device)
            found = evaluate(decoder, asked, world)
            still += bool(found.failed)
            kept = {key: record[key] for key in ("kind", "stage", "step", "tokens")}
            made = {**kept, **found.values, "time/evaluation_s": time.perf_counter() - began}

            def keep(made: Record = made, found: Evaluated = found) -> None:
                write_answers(answers_path(run, made["step"]), found.answers)
                supersede_record(run / METRICS, made)

            world.first_does(keep)
            log.info("stage %s, step %s", record["stage"], record["step"])
            _show(found, run / METRICS)
        if records and not still:
            world.first_does(lambda: forget_attempts(run))
    finally:
        if claimed is not None:
            claimed.release()
    return int(still > 0)


def _chosen(run: Path, stages: str) -> list[Record]:
    """Return the records of the stages that are to be evaluated again, by step.

    Raises ValueError when a stage has no record, or none of them has a checkpoint any more.
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
            raise ValueError(f"run {run} has no record of stage {stages} (it has {known})")
    there: list[Record] = []
    gone: list[Record] = []
    for record in wanted:
        folder = checkpoint.folder_of(run / CHECKPOINTS, record["step"])
        (there if folder.is_dir() else gone).append(record)
    told = ", ".join(f"{record['stage']} (step {record['step']})" for record in gone)
    if gone and not there:
        raise ValueError(
            f"the checkpoint of stage {told} of run {run} is gone, and its weights with it: train with "
            "checkpoints.keep_stages=true to keep those of all stages"
        )
    if gone:
        log.warning("the checkpoint of stage %s is gone: it stays as it is", told)
    return there


def _own_settings(
    run: Path, settings: EvaluateSettings, overrides: Sequence[str]
) -> tuple[HeldoutSettings, BenchmarkSettings]:
    """Return what the run asks at its stage ends, with what of MAY_DIFFER was given on the command line.

    Raises ValueError for anything else that was given: the stages of a run are compared with each other.
    """
    given = [word.lstrip("+").partition("=")[0] for word in overrides]
    other = [key for key in given if key.startswith(("heldout.", "benchmarks.")) and key not in MAY_DIFFER]
    if other:
        raise ValueError(
            f"{other[0]} is the run's own with stages={settings.stages}: leave it out (what may differ is "
            f"{', '.join(MAY_DIFFER)})"
        )
    heldout, benchmarks = own_settings(run)

    def now(name: str, own: T) -> T:
        known = [item.name for item in fields(own)]  # type: ignore[arg-type]
        values = {key: getattr(getattr(settings, name), key) for key in known if f"{name}.{key}" in given}
        return replace(own, **values)  # type: ignore[type-var]

    return now("heldout", heldout), now("benchmarks", benchmarks)


def own_settings(run: Path) -> tuple[HeldoutSettings, BenchmarkSettings]:
    """Return what a run asks at its stage ends, by its config.json; keys that this PDPC does not know are left out.

    Raises ArtifactError naming the file.
    """
    path = run / "config.json"
    if not path.is_file():
        raise ArtifactError(f"{path} is missing, and what the run asks at its stage ends with it: restore it")

    def own(name: str, kind: type[T]) -> T:
        known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
        return kind(**{key: value for key, value in kept.get(name, {}).items() if key in known})

    with reading(path, "restore it"):
        kept = json.loads(path.read_text("utf-8"))
        return own("heldout", HeldoutSettings), own("benchmarks", BenchmarkSettings)


def _as_trained(run: Path, step: int, facts: dict[str, Any]) -> Decoder:
    """Return the decoder of a checkpoint in the precision in which the run evaluates it at a stage end."""
    decoder = load_decoder(checkpoint.folder_of(run / CHECKPOINTS, step))
    return decoder.bfloat16() if facts["identity"].get("precision") == "bf16" else decoder


def _questions(facts: dict[str, Any], heldout: HeldoutSettings, benchmarks: BenchmarkSettings) -> Questions:
    """Return what a run's model is asked. Raises ArtifactError when its inputs are not what the run used."""
    check_tasks(benchmarks)
    validation, pd = _heldout_of(facts)
    validation.check_tokenizer()
    return Questions(validation.tokenizer_folder, validation, pd, heldout, benchmarks)


def _heldout_of(facts: dict[str, Any]) -> tuple[Tokens, NDArray[np.float32] | None]:
    paths, prints = facts["paths"], facts["fingerprints"]
    validation = Tokens.open(paths["tokens"], VALIDATION)
    scores = Scores.open(paths["scores"], VALIDATION) if paths["scores"] else None
    for name, found in (("validation", validation), ("scores", scores)):
        if found is not None and found.fingerprint != prints[name]:
            raise ArtifactError(
                f"{found.folder} is not what the run used ({name}: {found.fingerprint} there, {prints[name]} in the "
                "run): put the old folder back"
            )
    return validation, scores.column("pd") if scores else None


def _show(found: Evaluated, target: Path | None) -> None:
    for name, value in found.values.items():
        log.info("%-40s %s", printable(name), value if isinstance(value, str) else f"{value:.4f}")
    if target is not None:
        log.info("written to %s", target)
