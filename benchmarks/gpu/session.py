"""One run of the GPU check: the device first, then checks side by side, then what is timed, one at a time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.gpu.check import Row
from benchmarks.gpu.groups import Clock, Group, run_group, run_together
from benchmarks.gpu.tables import tables
from benchmarks.options import say
from benchmarks.report import KEPT, RESULTS
from curriculum.artifact.files import code_version, write_text

NAME = "gpu"
PACKAGE = "benchmarks.gpu"
CHECKS = ("attention", "kernels", "decoder", "engine")
CHECK_SHARE, STEP_SHARE = 0.4, 0.3
"""The most of the time for everything that one process may take."""
CORES_PER_GROUP = 4
"""torch.compile and Triton compile on the CPU: more groups than this allows would only wait for each other."""
FAILED, SKIPPED = 1, 3
COMPILED = "execution.compile=true"
Settings = Mapping[str, Any]


def run(options: Settings, folder: Path, added: list[str]) -> Row:
    """Run everything that the options select; return the result. `added`: packages installed from wheels."""
    started, clock = time.monotonic(), Clock(60 * options["minutes"])
    check_s, step_s = (share * 60 * options["minutes"] for share in (CHECK_SHARE, STEP_SHARE))
    settings = {name: value for name, value in options.items() if name not in ("keep", "wheels")}
    on_cpu = options["device"] == "cpu"
    chosen = options["only"] or [*CHECKS, "timing", "steps"]
    say(f"device: at most {options['minutes']:g} minutes for everything")
    (device,) = run_group(Group("device", f"{PACKAGE}.facts", check_s), settings, folder, clock)
    rows: list[Row] = [device]
    steps: list[Row] = []
    if device["state"] == "passed":
        checks = [Group(name, f"{PACKAGE}.{name}", check_s) for name in CHECKS if name in chosen]
        say(f"checks: {', '.join(group.name for group in checks) or 'none'}")
        at_once = max(1, min(len(checks), (os.cpu_count() or 1) // CORES_PER_GROUP))
        rows += run_together(checks, settings, folder, clock, at_once)
        if "steps" in chosen:
            steps = [
                row for group, given in _step_groups(settings, device) for row in steps_of(group, given, folder, clock)
            ]
        if "timing" in chosen:
            say("timing: attention and kernels")
            rows += run_group(Group("timing", f"{PACKAGE}.parts", step_s), settings, folder, clock)
    peak = options["peak_tflops"] * 1e12 if options["peak_tflops"] else device.get("peak_per_s")
    return {
        "benchmark": NAME,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "dry_run": on_cpu,
        "pdpc": code_version(),
        "wheels": added,
        "settings": settings,
        **{key: device[key] for key in ("card", "machine", "versions", "auto") if key in device},
        "peak_per_s": peak,
        "checks": rows,
        "steps": [with_mfu(row, peak) for row in steps],
        "seconds": round(time.monotonic() - started, 1),
    }


def _step_groups(settings: Settings, device: Row) -> Iterator[tuple[Group, Row]]:
    """Yield the measurements of steps with their settings, the most important first."""
    ranks, step_s = device["cards"], STEP_SHARE * 60 * settings["minutes"]
    for size in settings["size"]:
        yield Group(f"PDPC {size}", f"{PACKAGE}.step", step_s, ranks), {**settings, "model": size}
    for size in settings["size"]:
        yield Group(f"Hugging Face {size}", f"{PACKAGE}.huggingface", step_s), {**settings, "model": size}
    if settings["compile"]:
        for size in settings["size"]:
            compiled = {**settings, "model": size, "set": [*settings["set"], COMPILED]}
            yield Group(f"PDPC {size}, compiled", f"{PACKAGE}.step", step_s, ranks), compiled


def steps_of(group: Group, settings: Row, folder: Path, clock: Clock) -> list[Row]:
    """Measure the steps of one size, with half the micro-batch for as long as it does not fit."""
    while True:
        say(f"steps: {group.name}, micro-batch of {settings['micro_batch_size']}")
        rows = run_group(group, settings, folder, clock)
        full = [row for row in rows if "out_of_memory" in row]
        if not full or settings["micro_batch_size"] == 1:
            for row in full:
                row |= {"state": "skipped", "why": f"out of memory with one sample: {row['out_of_memory']}"}
            return [{**row, "side": group.name, "size": settings["model"]} for row in rows]
        settings = {**settings, "micro_batch_size": settings["micro_batch_size"] // 2}


def with_mfu(row: Row, peak: float | None) -> Row:
    """Add the published rows to a measured step, and both MFUs if the card's peak is known."""
    from benchmarks.gpu.published import comparable, mfu

    published = comparable(row["size"], row.get("seq_len", 0))
    found: Row = {**row, "published": [dict(vars(other)) for other in published]}
    if peak is not None and "tokens_per_s" in row:
        for name, operations in (("mfu", "operations_per_token"), ("mfu_causal", "operations_per_token_causal")):
            found[name] = mfu(row["tokens_per_s"], row[operations], peak)
    return found


def exit_code(result: Mapping[str, Any]) -> int:
    """Return 0 if all checks passed, 1 if one failed, 3 if none failed but one was skipped."""
    states = {row["state"] for row in (*result["checks"], *result["steps"])}
    return FAILED if "failed" in states else SKIPPED if "skipped" in states else 0


def report(result: Row, folder: Path | None, *, keep: bool) -> int:
    """Print the tables and write the JSON; return the exit code."""
    result["exit_code"] = exit_code(result)
    console = Console() if Console().is_terminal else Console(width=140)
    for shown in tables(result):
        console.print(shown)
    states = [row["state"] for row in (*result["checks"], *result["steps"])]
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("passed", "failed", "skipped"))
    console.print(f"{counts} in {result['seconds']:.0f} s", markup=False, highlight=False)
    name = f"{NAME}_dry_run" if result["dry_run"] else NAME
    path = ((folder or RESULTS) / KEPT if keep else (folder or RESULTS)) / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(result, indent=1, allow_nan=False) + "\n")
    console.print(f"written: {os.path.relpath(path)}", markup=False, highlight=False, soft_wrap=True)
    return int(result["exit_code"])
