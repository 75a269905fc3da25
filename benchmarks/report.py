"""The result of a benchmark: a table for the terminal, and the same as JSON with machine, versions and sizes."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.rounds import ENOUGH_ROUNDS, Check, Spread, spread
from curriculum.artifact.files import code_version, write_text

RESULTS = Path(__file__).parent / "results"
KEPT = "kept"
MEBIBYTE = 1 << 20
FILE_COLUMNS = 120


@dataclass(frozen=True)
class Result:
    """The result of one run of a benchmark."""

    name: str
    settings: dict[str, Any]
    """Sizes and seed from the command line."""
    peers: Sequence[str]
    """Distributions whose versions are recorded."""
    measured: Mapping[str, Sequence[Mapping[str, Any]]]
    """Facts of each side, one mapping per round: `seconds`, `peak_bytes` and any others."""
    ratios: Mapping[str, Sequence[float]]
    """Ratios by name, one per round."""
    checks: Sequence[Check]
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def rounds(self) -> int:
        """Number of rounds of the side with the fewest."""
        return min(len(results) for results in self.measured.values())


def as_json(result: Result) -> dict[str, Any]:
    """Return a result as JSON values: medians and spreads, every round, the checks, and the machine."""
    sides = {
        side: {
            "seconds": asdict(_seconds(rounds)),
            "peak_bytes": _peak(rounds),
            "rounds": [dict(facts) for facts in rounds],
        }
        for side, rounds in result.measured.items()
    }
    ratios = {name: {**asdict(spread(values)), "rounds": list(values)} for name, values in result.ratios.items()}
    return {
        "benchmark": result.name,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": result.settings,
        "machine": machine(),
        "versions": versions(result.peers),
        "sides": sides,
        "ratios": ratios,
        "checks": [{**asdict(check), "held": check.held} for check in result.checks],
        "notes": list(result.notes),
    }


def finish(result: Result, *, keep: bool, console: Console | None = None, folder: Path = RESULTS) -> Path:
    """Print the table and write `<name>.json`; `keep`: into the folder tracked by git. Return the file."""
    console = console or _console()
    console.print(table(result))
    for note in result.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    if result.rounds < ENOUGH_ROUNDS:
        console.print(f"note: fewer than {ENOUGH_ROUNDS} rounds are a trial, not a measurement", markup=False)
    path = (folder / KEPT if keep else folder) / f"{result.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(as_json(result), indent=1, allow_nan=False) + "\n")
    console.print(f"written: {os.path.relpath(path)}", markup=False, highlight=False, soft_wrap=True)
    return path


def table(result: Result) -> Table:
    """Return one table: the sides, then the ratios, then the checks."""
    sizes = ", ".join(f"{key} {_number(value)}" for key, value in result.settings.items() if value is not None)
    shown = Table(title=f"{result.name}: {sizes}", title_justify="left")
    for title in ("what", "median", "min .. max", "peak memory", "target"):
        shown.add_column(title, justify="left" if title == "what" else "right")
    for side, rounds in result.measured.items():
        seconds = _seconds(rounds)
        shown.add_row(side, f"{seconds.median:.4g} s", _range(seconds), f"{_peak(rounds) / MEBIBYTE:,.0f} MiB", "")
    shown.add_section()
    for name, values in result.ratios.items():
        between = spread(values)
        shown.add_row(name, f"{between.median:.3g} x", _range(between), "", "")
    shown.add_section()
    for check in result.checks:
        verdict = "held" if check.held else "MISSED"
        value = f"{_number(check.value)} {check.unit}".rstrip()
        shown.add_row(check.name, value, "", "", f"{check.sense} {check.target:,g}: {verdict}")
    return shown


def _console() -> Console:
    """Return a console of the terminal's width; for a file or a pipe, wide enough for the table."""
    console = Console()
    return console if console.is_terminal else Console(width=FILE_COLUMNS)


def machine() -> dict[str, Any]:
    """Return the machine that the figures depend on: processor, cores, memory, kernel, Python and load."""
    cpuinfo = Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
    models = [line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": pages * page_bytes,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_1m": round(os.getloadavg()[0], 2),
    }


def versions(peers: Sequence[str]) -> dict[str, str]:
    """Return the versions of PDPC (with its commit, if any), numpy, pyarrow and the peers."""
    found = {"pdpc": code_version(), "commit": _commit()}
    for name in ("numpy", "pyarrow", *peers):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _commit() -> str:
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _seconds(rounds: Sequence[Mapping[str, Any]]) -> Spread:
    return spread([float(facts["seconds"]) for facts in rounds])


def _peak(rounds: Sequence[Mapping[str, Any]]) -> int:
    return max(int(facts["peak_bytes"]) for facts in rounds)


def _range(values: Spread) -> str:
    return f"{values.low:.4g} .. {values.high:.4g}"


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
