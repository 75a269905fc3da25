"""`pdpc estimate`: parameters, FLOPs, memory, speed, hours and checkpoints of a recipe, before anything is queued.

    pdpc estimate experiment=pdpc_1.3b cluster=a100_80 cluster.nodes=8
    pdpc estimate experiment=pdpc_1.3b cluster=a100_80 cluster.nodes=8 --from runs/trial format=json

Nothing runs and nothing is written. Every number says whether it is measured (a run's metrics), fitted (the model of
speed, to published rows), a formula, given, or assumed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from launch.estimate.hardware import Accelerators, hardware
from launch.estimate.known import Known, decoder_of, known, model_of, training
from launch.estimate.memory import KINDS, Memory
from launch.estimate.real_run import Correction, RealRun, card_matches, read_real_run
from launch.estimate.recipe import (
    Checkpoints,
    Part,
    Step,
    checkpoints_of,
    forward_part,
    largest,
    lost_part,
    memories,
    stages_for,
    step_of,
    training_part,
)
from launch.estimate.settings import EstimateSettings
from launch.estimate.speed import coefficients, fitted_file
from models.config import DecoderConfig
from train.settings import TrainSettings

TOKENS_AT_MOST = 65_536
"""Tokens of a reference's micro-batch: more is not faster."""


def run(settings: EstimateSettings) -> int:
    """Print the estimate. Raises ValueError for what `train` or `launch` would reject."""
    found = estimate(settings)
    if settings.format == "json":
        print(json.dumps(found, indent=1, allow_nan=False))
        return 0
    from launch.estimate.table import show

    show(found)
    return 0


def shown_training(overrides: Sequence[str]) -> str:
    """Return the run's composed configuration as a second YAML document (--cfg job)."""
    from launch.cluster.launch import shown_training as shown

    return shown(overrides)


def estimate(settings: EstimateSettings) -> dict[str, Any]:
    """Return the estimate as plain values; every section names its origin."""
    train = training(settings.overrides)
    where = hardware(settings.cluster, settings.gpu)
    data = known(settings, train)
    decoder = decoder_of(train, data)
    run = read_real_run(Path(settings.from_run)) if settings.from_run else None
    correction = Correction() if run is None else correction_of(run, where)
    corrected = correction.applied(where)
    by_stage = {stage: memories(train, decoder, data, where.devices, stage) for stage in stages_for(train)}
    chosen = by_stage[train.zero.stage].get(train.micro_batch_size)
    step = step_of(train, decoder, data, corrected, coefficients(), train.micro_batch_size)
    assert chosen is not None, "step_of has checked the micro-batch"
    saved = checkpoints_of(train, decoder, data, where, step.seconds.total)
    parts, notes = _parts(settings, train, decoder, data, corrected, step, saved)
    counts = decoder.parameters()
    available = where.usable_bytes - correction.bytes
    return {
        "run": {
            "arm": train.arm,
            "zero_stage": train.zero.stage,
            "micro_batch_size": train.micro_batch_size,
            "precision": train.precision,
            "checkpointing": train.execution.checkpointing,
            "accumulation": data.batch_size // where.devices // train.micro_batch_size,
        },
        "data": {
            **{key: value for key, value in asdict(data).items() if key != "origin"},
            "steps": data.steps,
            "from": dict(data.origin),
        },
        "hardware": {**asdict(where), "devices": where.devices, "from": "given"},
        "parameters": {
            "total": counts.total,
            **{name: getattr(counts, name) for name in ("embedding", "attention", "ffn", "norm", "head")},
            "from": "formula",
        },
        "flops_per_token": {
            "full_attention": step.operations_per_token,
            "causal_attention": step.operations_per_token_causal,
            "from": "formula",
        },
        "memory": {
            "from": "formula" if run is None else "formula, corrected by a measured peak",
            "correction_bytes": correction.bytes,
            "usable_bytes": where.usable_bytes,
            "fits": chosen.total <= available,
            "chosen": _as_dict(chosen),
            "by_stage": {
                str(stage): {
                    "largest_micro_batch": largest(found, available),
                    "micro_batches": {str(size): _as_dict(need) for size, need in found.items()},
                }
                for stage, found in by_stage.items()
            },
        },
        "speed": {
            "from": "fitted" if run is None else "fitted, corrected by measured tokens/s",
            "step_s": step.seconds.total,
            "tokens_per_s": step.tokens_per_s,
            "tokens_per_s_device": step.tokens_per_s / step.devices,
            "mfu": step.mfu(),
            "mfu_causal": step.mfu(causal=True),
            "seconds_by_purpose": asdict(step.seconds),
            "error_on_rows_kept_out": fitted_file()["kept_out_by_size"]["all"],
            "fitted_to": fitted_file()["origin"],
        },
        "checkpoints": {
            **asdict(saved),
            "stalled_s": saved.stalled_s,
            "disk_bytes": saved.kept * saved.size,
            "from": "formula",
        },
        "recipe": {
            "from": "fitted" if run is None else "fitted, corrected by measured tokens/s",
            "parts": [asdict(part) for part in parts],
            "hours": sum(part.hours for part in parts),
            "gpu_hours": sum(part.gpu_hours for part in parts),
        },
        "measured": None if run is None else _measured(run, correction),
        "notes": notes,
    }


def correction_of(run: RealRun, where: Accelerators) -> Correction:
    """Return how a run differs from the estimate of itself on this hardware. Raises ValueError for another GPU."""
    if not run.on_gpu or not card_matches(run, where):
        raise ValueError(
            f"from_run={run.folder} ran on {run.device}, which is not the GPU that is estimated ({where.peak_tflops:g} "
            "TFLOP/s): give the cluster of that GPU, or leave from_run out"
        )
    per_node = min(run.ranks, where.gpus_per_node)
    there = replace(where, nodes=-(-run.ranks // per_node), gpus_per_node=per_node)
    batch = run.ranks * run.accumulation * run.settings.micro_batch_size
    length = run.decoder.max_seq_len
    data = Known(run.decoder.vocab_size, length, batch, float(batch * length), 1, None, 1.0, {})
    micro = run.settings.micro_batch_size
    expected = step_of(run.settings, run.decoder, data, there, coefficients(), micro)
    extra = 0
    if run.peak_bytes is not None:
        need = memories(run.settings, run.decoder, data, run.ranks, run.settings.zero.stage)[micro]
        extra = run.peak_bytes - need.total
    return Correction(run.tokens_per_s * run.ranks / expected.tokens_per_s, extra, str(run.folder))


def _parts(
    settings: EstimateSettings,
    train: TrainSettings,
    decoder: DecoderConfig,
    data: Known,
    where: Accelerators,
    step: Step,
    saved: Checkpoints,
) -> tuple[list[Part], list[str]]:
    """Return the parts of the recipe, and what a reader should know about them."""
    fitted, parts, references = coefficients(), [], []
    notes = [*data.notes, "tokenizing, sorting and reports are not counted: they need no GPU"]
    for name, size in settings.references.items():
        if size is None:
            continue
        other = replace(train, model=model_of(name, size))
        shape = decoder_of(other, data)
        fits = {
            micro: need
            for micro, need in memories(other, shape, data, where.devices, other.zero.stage).items()
            if micro * data.seq_len <= TOKENS_AT_MOST
        }
        micro = largest(fits, where.usable_bytes)
        if micro is None:
            raise ValueError(
                f"references.{name}={size} does not fit a GPU of this cluster at any micro-batch: use a smaller one"
            )
        its = step_of(other, shape, data, where, fitted, micro)
        parts.append(training_part(f"reference {name}", f"{size}, micro-batch {micro}", its, data.reference_tokens, 1))
        references.append((shape, data.train_tokens))
    if references:
        what = f"{len(references)} forward passes over the training tokens"
        parts.append(forward_part("scoring", what, references, data, where, fitted))
    each = training_part(
        "arms", f"{settings.arms} runs one after another", step, data.train_tokens, settings.arms, saved.stalled_s
    )
    parts.append(each)
    heldout = data.validation_samples if train.heldout.max_samples is None else train.heldout.max_samples
    if heldout is None:
        notes.append("held-out loss is not counted: give heldout.max_samples or data.tokens")
    if train.benchmarks.tasks and not settings.benchmark_tokens:
        notes.append("benchmarks are not counted: give benchmark_tokens, what one evaluation scores")
    tokens = (heldout or 0) * data.seq_len + settings.benchmark_tokens
    evaluations = settings.arms * data.stages
    parts.append(
        forward_part("evaluation", f"{evaluations} stage ends", [(decoder, tokens * evaluations)], data, where, fitted)
    )
    parts.append(lost_part([each], saved, step.seconds.total, where))
    return parts, notes


def _as_dict(need: Memory) -> dict[str, Any]:
    return {
        **{kind: getattr(need, kind) for kind in KINDS},
        "total": need.total,
        "moment": need.moment,
        "host": need.host,
    }


def _measured(run: RealRun, correction: Correction) -> dict[str, Any]:
    return {
        "run": str(run.folder),
        "device": run.device,
        "ranks": run.ranks,
        "tokens_per_s_device": run.tokens_per_s,
        "peak_bytes": run.peak_bytes,
        "speed_over_estimate": correction.speed,
        "bytes_over_estimate": correction.bytes,
        "from": "measured",
    }
