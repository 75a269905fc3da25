"""python -m benchmarks.start

Time from the start of a command to the record of its first step, with the demo's model, compared with a process that
only imports torch and DeepSpeed: `pdpc train` with one rank, and the rank alone (`python -m train`).

Targets: at most 1.8 and 1.4 times the imports.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.options import chosen, parser, say, work_folder
from benchmarks.processes import Facts, Settings
from benchmarks.report import Result, finish
from benchmarks.rounds import Check, column, interleave, ratios, spread
from benchmarks.step_overhead import write_data

NAME = "start"
IMPORTS = "imports"
TARGETS = {"pdpc train": 1.8, "python -m train": 1.4}
SIDES = {
    IMPORTS: ["-c", "import os, torch, deepspeed; os._exit(0)"],
    "pdpc train": ["-m", "launch.cli", "train", "processes=1"],
    "python -m train": ["-m", "train"],
}
SIZES = {"steps": 20, "batch_size": 4, "length": 64, "vocabulary": 512}
POLL_S = 0.005
LIMIT_S = 600.0


def measure(side: str, settings: Settings, work: Path) -> Facts:
    """Run one side until its first step is recorded, or to its end; return its seconds."""
    run = work / "run"
    shutil.rmtree(run, ignore_errors=True)
    words = SIDES[side]
    if side != IMPORTS:
        data = [f"data.tokens={work / 'data' / 'tokens'}", f"data.order={work / 'data' / 'order'}"]
        words = [*words, "experiment=demo", "arm=benchmark", f"output={run}", *data, "tracker=none", "log_every=1"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(settings["threads"]), "DS_ACCELERATOR": "cpu"}
    with open(work / "log", "wb") as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *words], stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            while process.poll() is None and not _recorded(run) and time.perf_counter() - started < LIMIT_S:
                time.sleep(POLL_S)
            seconds = time.perf_counter() - started
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # ranks in other sessions notice that it is gone
            process.wait()
    if side != IMPORTS and not _recorded(run):
        raise RuntimeError(f"{side} recorded no step:\n{(work / 'log').read_text('utf-8', errors='replace')[-3000:]}")
    return {"seconds": seconds, "peak_bytes": 0}


def _recorded(run: Path) -> bool:
    metrics = run / "metrics.jsonl"
    return metrics.is_file() and metrics.stat().st_size > 0


def main() -> None:
    """Measure, print the table, write the result."""
    options = parser(__doc__)
    options.add_argument("--threads", type=int, default=1, help="CPU threads per process (default 1)")
    parsed = options.parse_args()
    with work_folder(parsed.work) as work:
        settings = chosen(parsed)
        if not (work / "data").exists():
            write_data(work / "data", {**SIZES, "seed": parsed.seed})
        for side in SIDES:  # files in the page cache, compiled modules
            measure(side, settings, work)
        measured = interleave(list(SIDES), parsed.rounds, lambda side: measure(side, settings, work), say)
    seconds = {side: column(measured, side, "seconds") for side in SIDES}
    times = {f"{side} / {IMPORTS}": ratios(seconds[side], seconds[IMPORTS]) for side in TARGETS}
    checks = [
        Check(f"{side} over the imports", spread(times[f"{side} / {IMPORTS}"]).median, target, "at most", "x")
        for side, target in TARGETS.items()
    ]
    finish(Result(NAME, settings, ("torch", "deepspeed"), measured, times, checks), keep=parsed.keep)


if __name__ == "__main__":
    main()
