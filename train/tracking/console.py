"""The console line of a logging step."""

from __future__ import annotations

import os
import shutil
import sys

from curriculum.work.printable import printable
from train.tracking import Record

BOLD, FAINT, RED, PLAIN = "\033[1m", "\033[2m", "\033[31m", "\033[0m"
WIDTH = 160
"""Letters in a line where there is no terminal to ask."""
SHOWN_OF_STAGE = ("val/loss", "val/low_pd/loss", "val/high_pd/loss", "bench/avg")


def on_terminal() -> bool:
    """Tell whether the log goes to a terminal that supports colours (respects NO_COLOR, see no-color.org)."""
    return sys.stderr.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def width() -> int:
    """Return the letters in a line of the log: the terminal's, or WIDTH if the log goes elsewhere."""
    return shutil.get_terminal_size((WIDTH, 0)).columns if sys.stderr.isatty() else WIDTH


def one_line(record: Record, steps: int, *, colour: bool = False, letters: int = WIDTH) -> str:
    """Format a record as one line; with `colour` the loss is highlighted, in red if it is not finite.

    The mix lists the buckets that the batches had, as many as fit in `letters`, and says how many more there are.
    """

    def tinted(text: str, code: str) -> str:
        return f"{code}{text}{PLAIN}" if colour else text

    start = f"step {record['step']}/{steps}  tokens {record['tokens']:,}"
    if record["kind"] == "stage":
        values = "  ".join(f"{key} {record[key]:.4f}" for key in SHOWN_OF_STAGE if key in record)
        return f"{start}  stage {record['stage']}  {tinted(values, BOLD)}  ({record['time/evaluation_s']:.1f} s)"
    loss = record["train/loss"]
    finite = loss == loss and abs(loss) != float("inf")
    mfu = record.get("throughput/mfu")
    score = record.get("curriculum/mean_score")
    left = f"left {time_left((steps - record['step']) * record['time/step_s'])}"
    parts = [
        (start, FAINT),
        (f"loss {loss:.4f}", BOLD if finite else RED),
        (f"lr {record['optim/lr']:.2e}", ""),
        (f"grad {record['optim/grad_norm']:.2f}", ""),
        (f"{record['throughput/tokens_per_s']:,.0f} tok/s" + ("" if mfu is None else f"  MFU {mfu:.1%}"), ""),
        *([] if score is None else [(f"mean score {score:.3f}", "")]),
    ]
    known = "  ".join(text for text, _ in parts)
    shown = [tinted(text, code) if code else text for text, code in parts]
    mix = _mix(record, letters - len(known) - len(left) - 4)
    return "  ".join([*shown, *([mix] if mix else []), left])


def _mix(record: Record, letters: int) -> str:
    """Return the largest bucket shares that fit, in the order of the buckets; "" if nothing fits or there are none."""
    prefix = "curriculum/realised/"
    shares = {
        printable(key.removeprefix(prefix)): value for key, value in record.items() if key.startswith(prefix) and value
    }
    by_size = sorted(shares, key=lambda name: -shares[name])
    for count in range(len(shares), 0, -1):
        kept = set(by_size[:count])
        text = "mix " + " ".join(f"{name} {value:.2f}" for name, value in shares.items() if name in kept)
        text += f" and {len(shares) - count} more" if count < len(shares) else ""
        if len(text) <= letters:
            return text
    text = f"mix of {len(shares)} buckets"
    return text if shares and len(text) <= letters else ""


def time_left(seconds: float) -> str:
    """Format a duration as m:ss, h:mm:ss, or days and hours."""
    whole = round(seconds)
    if whole >= 172800:
        return f"{whole // 86400} d {whole % 86400 // 3600} h"
    if whole >= 3600:
        return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"
    return f"{whole // 60}:{whole % 60:02d}"
