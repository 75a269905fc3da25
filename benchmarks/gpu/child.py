"""python -m benchmarks.gpu.child MODULE SETTINGS.json ROWS.jsonl

The checks of one group, in a process of their own. Every check is written as soon as it ends, so that a crash costs
only the check that caused it: `benchmarks.gpu.groups` starts the rest again.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.gpu.check import Check, Row, Skipped

DEVICE_LOST = 3
"""Exit code after a check that left the GPU unusable for this process."""
TRACE_LINES = 12


def outcome(name: str, check: Check) -> Row:
    """Run a check; return its facts and its state: passed, failed or skipped, with the reason if it did not pass."""
    started = time.perf_counter()
    row: Row = {"check": name}
    try:
        row |= check()
    except Skipped as reason:
        row |= {"state": "skipped", "why": str(reason)}
    except Exception as error:
        trace = traceback.format_exc().strip().splitlines()[-TRACE_LINES:]
        first = " ".join(str(error).strip().split("\n")[:1])
        row |= {"state": "failed", "why": f"{type(error).__name__}: {first}", "trace": trace}
    else:
        off, bound = row.get("error", 0.0), row.get("bound", math.inf)
        row["state"] = "passed" if off <= bound else "failed"  # a NaN fails
        if row["state"] == "failed":
            row["why"] = f"differs by {off:.3g}, more than {bound:g}"
            row["error"] = off if math.isfinite(off) else str(off)  # JSON has no NaN
    return row | {"seconds": round(time.perf_counter() - started, 2)}


def main(arguments: list[str]) -> int:
    """Run the checks of a group that are not done yet; return the exit code."""
    group, given, result = arguments
    settings = json.loads(Path(given).read_text("utf-8"))
    checks: dict[str, Check] = import_module(group).checks(settings)
    todo = {name: check for name, check in checks.items() if name not in settings["done"]}
    if os.environ.get("RANK", "0") != "0":
        result = os.devnull
    with open(result, "a", encoding="utf-8") as file:

        def tell(fact: Row) -> None:
            file.write(json.dumps(fact, allow_nan=False) + "\n")
            file.flush()

        tell({"plan": list(todo)})
        for name, check in todo.items():
            tell({"started": name})
            tell({"row": outcome(name, check)})
            if not _usable():
                return DEVICE_LOST
    return 0


def _usable() -> bool:
    """Return whether the GPU still computes: after an illegal access or a failed assertion every call fails."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


if __name__ == "__main__":
    code = main(sys.argv[1:])
    from train.distributed.heartbeat import leave

    leave(code)
