"""The tables of the GPU check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

TIMED = ("attention", "kernels")


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Return the tables of a result: checks, timed parts, and steps with the published ones."""
    dry = "CPU DRY RUN, not a GPU's figures: "
    prefix = dry if result["dry_run"] else f"{result.get('card', 'no GPU')}: "
    parts = {name: [each for row in result["checks"] for each in row.get(name, [])] for name in TIMED}
    shown = [_checks(prefix, result)]
    if parts["attention"]:
        shown.append(_attention(prefix, parts["attention"]))
    if parts["kernels"]:
        shown.append(_kernels(prefix, parts["kernels"]))
    if result["steps"]:
        shown.append(_steps(prefix, result))
    return shown


def _checks(prefix: str, result: Mapping[str, Any]) -> Table:
    made = _table(f"{prefix}checks", "check", "result", "difference", "bound", "s", "reason")
    for row in result["checks"]:
        numbers = [_short(row.get(key)) for key in ("error", "bound")]
        why = row.get("why", " | ".join(row.get("auto", [])))
        made.add_row(escape(row["check"]), row["state"], *numbers, _short(row.get("seconds")), escape(why))
    return made


def _attention(prefix: str, rows: list[dict[str, Any]]) -> Table:
    made = _table(f"{prefix}attention, forward and backward", "backend", "documents", "ms", "TFLOP/s")
    for row in rows:
        made.add_row(row["backend"], row["documents"], f"{row['ms']:.2f}", f"{row['tflop_per_s']:.3g}")
    return made


def _kernels(prefix: str, rows: list[dict[str, Any]]) -> Table:
    made = _table(f"{prefix}kernels, forward and backward", "function", "plain ms", "liger ms", "plain / liger")
    for row in rows:
        plain, liger = row.get("plain_ms"), row.get("liger_ms")
        ratio = f"{plain / liger:.2f}" if plain and liger else row.get("liger_not_run", "-").split(",")[0]
        made.add_row(row["function"], *("-" if ms is None else f"{ms:.2f}" for ms in (plain, liger)), escape(ratio))
    return made


def _steps(prefix: str, result: Mapping[str, Any]) -> Table:
    titles = ("model", "T", "batch", "GPUs", "card", "tokens/s/GPU", "mfu", "mfu_causal", "GiB")
    made = _table(f"{prefix}training steps", *titles)
    card = result.get("card", "-")
    for size in dict.fromkeys(row["size"] for row in result["steps"]):
        ours = [row for row in result["steps"] if row["size"] == size]
        for row in ours:
            made.add_row(*_step_cells(row, card))
        published = {tuple(other.items()) for row in ours for other in row["published"]}
        for other in sorted(map(dict, published), key=lambda other: (other["card"], other["model"], other["devices"])):
            speed = "-" if other["tokens_per_s"] is None else f"{other['tokens_per_s']:,.0f}"
            place = (str(other["seq_len"]), "", str(other["devices"]), other["card"])
            made.add_row(other["model"], *place, speed, f"{other['mfu']:.1%}", "-", "-", style="dim")
        made.add_section()
    return made


def _step_cells(row: Mapping[str, Any], card: str) -> list[str]:
    if "tokens_per_s" not in row:
        return [row["side"], "-", "-", "-", card, escape(f"{row['state']}: {row['why']}"), "-", "-", "-"]
    shares = ["-" if name not in row else f"{row[name]:.1%}" for name in ("mfu", "mfu_causal")]
    memory = "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**30:.1f}"
    place = [row["side"], str(row["seq_len"]), str(row["micro_batch_size"]), str(row["devices"]), card]
    return [*place, f"{row['tokens_per_s']:,.0f}", *shares, memory]


def _short(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.3g}"


def _table(title: str, *columns: str) -> Table:
    shown = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        last = number == len(columns) - 1 and column == "reason"
        shown.add_column(column, justify="left" if number == 0 or last else "right", overflow="fold")
    return shown
