"""The console line of a logging step."""

from __future__ import annotations

import os
import sys

from curriculum.work.printable import printable
from train.tracking import Record

BOLD, FAINT, RED, PLAIN = "\033[1m", "\033[2m", "\033[31m", "\033[0m"
REALISED = "curriculum/realised/"
SHOWN_OF_STAGE = ("val/loss", "val/low_pd/loss", "val/high_pd/loss", "bench/avg")


def on_terminal() -> bool:
    """Tell whether the log goes to a terminal that supports colours (respects NO_COLOR, see no-color.org)."""
    return sys.stderr.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def one_line(record: Record, steps: int, *, colour: bool = False) -> str:
    """Format a record as one line; with `colour` the loss is highlighted, in red if it is not finite."""

    def tinted(text: str, code: str) -> str:
        return f"{code}{text}{PLAIN}" if colour else text

    start = f"step {record['step']}/{steps}  tokens {record['tokens']:,}"
    if record["kind"] == "stage":
        values = "  ".join(f"{key} {record[key]:.4f}" for key in SHOWN_OF_STAGE if key in record)
        return f"{start}  stage {record['stage']}  {tinted(values, BOLD)}  ({record['time/evaluation_s']:.1f} s)"
    mix = " ".join(
        f"{printable(key.removeprefix(REALISED))} {value:.2f}"
        for key, value in record.items()
        if key.startswith(REALISED)
    )
    loss = record["train/loss"]
    finite = loss == loss and abs(loss) != float("inf")
    mfu = record.get("throughput/mfu")
    parts = [
        tinted(start, FAINT),
        tinted(f"loss {loss:.4f}", BOLD if finite else RED),
        f"lr {record['optim/lr']:.2e}",
        f"grad {record['optim/grad_norm']:.2f}",
        f"{record['throughput/tokens_per_s']:,.0f} tok/s" + ("" if mfu is None else f"  MFU {mfu:.1%}"),
        f"mix {mix}",
        f"left {time_left((steps - record['step']) * record['time/step_s'])}",
    ]
    return "  ".join(parts)


def time_left(seconds: float) -> str:
    """Format a duration as m:ss, h:mm:ss, or days and hours."""
    whole = round(seconds)
    if whole >= 172800:
        return f"{whole // 86400} d {whole % 86400 // 3600} h"
    if whole >= 3600:
        return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
    return f"{whole // 60}:{whole % 60:02d}"
