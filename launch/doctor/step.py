"""Does a step compute what it should? Its gradient norm, through DeepSpeed, against plain torch in fp32."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from curriculum.work.cpus import threads_per_process
from launch.cluster.supervisor import launcher_environment, start_ranks
from launch.doctor.check import STAND_INS, Finding, Subject, failure, ok, warning
from launch.doctor.programs import said
from train.distributed.exit_codes import OUT_OF_MEMORY

RESULT = "PDPC_DOCTOR_RESULT"
"""Variable with the file to which rank 0 writes what the step computed."""
LIMIT_S = 580.0
TOLERANCE = {"fp32": 1e-3, "bf16": 0.05}
"""Largest relative difference of the gradient norms. bf16 has 8 bits: the norms of 24 blocks differ by about 1 %."""
CPU_FLOPS = 2e10
"""A slow CPU's, to tell whether a step there takes minutes."""


def step(subject: Subject) -> Iterator[Finding]:
    """Run one step on the ranks of this machine, at the run's ZeRO stage and micro-batch, and compare."""
    from launch.cluster.supervisor import gpus

    if subject.problem or (subject.inputs is None and subject.has("data.tokens", "data.order")):
        return  # named already
    ranks = min(subject.local_ranks, gpus()) if gpus() else subject.settings.processes or 1
    if not gpus() and (seconds := _seconds_on_cpu(subject)) > LIMIT_S / 2:
        yield warning(
            f"left out: on a CPU it would take {seconds / 60:,.0f} minutes", "run pdpc doctor on a node with GPUs"
        )
        return
    with tempfile.TemporaryDirectory(prefix="pdpc_doctor-") as name:
        result = Path(name) / "result"
        code, log = _run(subject, ranks, result)
        found = json.loads(result.read_text("utf-8")) if result.is_file() else None
    if found is None:
        yield failure(f"the ranks ended with code {code} ({_last(log)})", _remedy(code))
        return
    yield compared(found, subject.settings.precision, ranks)


def compared(found: dict[str, float | str], precision: str, ranks: int) -> Finding:
    """Return the finding for a step's gradient norm and the one of plain torch."""
    norm, reference, seconds = (float(found[key]) for key in ("norm", "reference", "seconds"))
    where = f"{ranks} rank{'s' if ranks > 1 else ''} on {found['device']}, {precision}, ZeRO {found['stage']}"
    text = f"gradient norm {norm:.6g}, plain torch in fp32 {reference:.6g} ({where}, {seconds:.1f} s)"
    if not math.isfinite(norm) or not abs(norm - reference) <= TOLERANCE[precision] * reference:
        return failure(
            f"wrong gradient: {text}",
            "see whether it is right with model.attention=sdpa, execution.kernels=plain or zero.stage=1, and check the "
            "versions and the GPU above",
        )
    return ok(text)


def _run(subject: Subject, ranks: int, result: Path) -> tuple[int, str]:
    """Run the ranks; return their exit code and what they logged."""
    words = [*(subject.overrides or ["tracker=none"]), *(f"{key}={STAND_INS[key]}" for key in sorted(subject.missing))]
    threads = threads_per_process(ranks, subject.settings.threads)
    os.environ[RESULT] = str(result)
    try:
        if ranks == 1:
            answer = said([sys.executable, "-m", "launch.doctor.rank", *words], LIMIT_S, launcher_environment(threads))
            return answer.code, f"{answer.out}{answer.errors}"
        with _captured(result.with_name("log")) as log:
            code = start_ranks("launch.doctor.rank", ranks, words, threads, LIMIT_S)
        return code, log.read_text("utf-8", "replace")
    finally:
        del os.environ[RESULT]


@contextmanager
def _captured(path: Path) -> Iterator[Path]:
    """Send what processes that start inside print to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with open(path, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield path
    finally:
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)


def _seconds_on_cpu(subject: Subject) -> float:
    """Return about how long the step and its comparison take on a CPU: 2 x 3 passes of 2 FLOPs per weight and token."""
    from launch.doctor.rank import decoder_of

    decoder = decoder_of(subject.settings, subject.inputs)
    tokens = subject.settings.micro_batch_size * decoder.max_seq_len
    return 12 * decoder.parameter_count() * tokens / CPU_FLOPS


def _last(log: str) -> str:
    lines = [one.strip() for one in log.splitlines() if one.strip()]
    return lines[-1] if lines else "they said nothing"


def _remedy(code: int) -> str:
    if code in (OUT_OF_MEMORY, 137, -9):
        return "lower micro_batch_size, or use execution.checkpointing=full or a higher zero.stage"
    return "see the findings above; python -m launch.doctor.rank with the same overrides shows the whole error"
