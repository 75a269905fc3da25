"""python -m benchmarks.estimate_memory [--keep] [CASE ...]

The peak memory of full-size training steps as `pdpc estimate` predicts it, compared with torch's memory tracker on fake
tensors (benchmarks/fake_step.py): 1.3b and 3b in bf16 at a length of 2048, at ZeRO 0 and 1. Target: 5 %.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.fake_step import peak_bytes
from benchmarks.report import KEPT, RESULTS, versions
from curriculum.artifact.files import write_text
from launch.estimate.known import training
from launch.estimate.memory import memory

NAME = "estimate_memory"
VOCABULARY, SEQ_LEN = 50_257, 2048
MOST = 0.05
CASES: dict[str, dict[str, Any]] = {
    "1.3b": {"model": "1.3b", "micro": 8, "accumulation": 1, "stage": 1, "ranks": 8},
    "3b": {"model": "3b", "micro": 4, "accumulation": 1, "stage": 1, "ranks": 8},
    "1.3b, accumulated": {"model": "1.3b", "micro": 4, "accumulation": 2, "stage": 1, "ranks": 64},
    "1.3b, full": {"model": "1.3b", "micro": 8, "accumulation": 1, "stage": 1, "ranks": 8, "checkpointing": "full"},
    "1.3b, selective": {
        "model": "1.3b",
        "micro": 8,
        "accumulation": 1,
        "stage": 1,
        "ranks": 8,
        "checkpointing": "selective",
    },
    "3b, stage 0": {"model": "3b", "micro": 1, "accumulation": 1, "stage": 0, "ranks": 8},
}


def compare(case: Mapping[str, Any]) -> dict[str, Any]:
    """Return predicted and tracked peak bytes of a case."""
    words = [f"model={case['model']}", f"zero.stage={case['stage']}", "precision=bf16", "execution.kernels=plain"]
    words += [f"execution.checkpointing={case.get('checkpointing', 'none')}"]
    train = training(words)
    decoder = replace(train.model, attention="blocks").decoder_config(VOCABULARY, SEQ_LEN, None)
    ranks, micro, accumulation = case["ranks"], case["micro"], case["accumulation"]
    predicted = memory(train, decoder, SEQ_LEN, ranks, micro, accumulation)
    started = time.perf_counter()
    tracked = peak_bytes(decoder, train.execution, micro, accumulation, ranks if case["stage"] else 1)
    return {
        **case,
        "predicted_bytes": predicted.total,
        "tracked_bytes": tracked["step"],
        "moment": predicted.moment,
        "error": round(predicted.total / tracked["step"] - 1, 4),
        "seconds": round(time.perf_counter() - started, 1),
    }


def main(arguments: list[str] | None = None) -> None:
    """Compare, print, and write the result."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("case", nargs="*", help=f"of {', '.join(CASES)}; all by default")
    made.add_argument("--keep", action="store_true", help="write the result to the folder tracked by git")
    options = made.parse_args(arguments)
    unknown = sorted(set(options.case) - CASES.keys())
    if unknown:
        made.error(f"{unknown[0]!r} is not one of {', '.join(CASES)}")
    path = Path(RESULTS / KEPT if options.keep else RESULTS) / f"{NAME}.json"
    rows: dict[str, Any] = {}
    for name in options.case or CASES:
        rows[name] = compare(CASES[name])
        print(f"{name}: {json.dumps(rows[name])}", flush=True)
        worst = max(abs(row["error"]) for row in rows.values())
        result = {
            "benchmark": NAME,
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(("torch",)),
            "target": MOST,
            "worst": worst,
            "cases": rows,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
