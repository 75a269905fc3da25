"""Read a run from W&B, as records like those in metrics.jsonl."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from train.report.wandb.api import check_key, within
from train.tracking.background import error_line
from train.tracking.metrics import NONFINITE, Record, in_order
from train.tracking.panels import STEP, TOKENS
from train.tracking.wandb_run import quiet_wandb

SPEC = re.compile(r"wandb:([^/\s:]+)/([^/\s:]+)/([^/\s:]+)")
ANSWER_S = 20
"""Timeout of one request to W&B, seconds."""
READ_S = 600.0
"""Timeout for reading a run, seconds."""
STAGE = ("val/", "bench/", "stage", "time/evaluation_s")
"""Prefixes of the keys in a stage record."""
NOT_FINITE = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}
"""W&B's names for non-finite numbers, and those of metrics.jsonl."""


@dataclass(frozen=True)
class WandbRecords:
    """A run as stored in W&B."""

    name: str
    """Display name in W&B; PDPC uses the arm."""
    config: dict[str, Any]
    records: list[Record]
    """By step, `train` before `stage`, with the keys of metrics.jsonl; keys that are null there are absent here."""


def read_wandb_run(spec: str, *, read_s: float = READ_S) -> WandbRecords:
    """Return the run `wandb:ENTITY/PROJECT/RUN_ID`, using the API key in WANDB_API_KEY or netrc.

    Raises ValueError for a malformed spec, a missing or rejected API key, and a run that does not exist or was not
    logged by PDPC; OSError if W&B is unreachable or takes longer than `read_s` seconds.
    """
    match = SPEC.fullmatch(spec)
    if match is None:
        raise ValueError(f"{spec!r} is not a W&B run: write wandb:ENTITY/PROJECT/RUN_ID, as in the run's URL")
    check_key()
    wandb = quiet_wandb()
    path = "/".join(match.groups())

    def read() -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
        run = wandb.Api(timeout=ANSWER_S).run(path)
        return str(run.name), dict(run.config), list(run.scan_history())

    try:
        name, config, rows = within(read_s, read)
    except Exception as error:
        raise _explained(error, spec) from None
    records = in_order(_records(rows))
    if not records:
        raise ValueError(
            f"{spec} has no row with {STEP} and {TOKENS}: it was not logged by PDPC, or has no records yet"
        )
    return WandbRecords(name, config, records)


def _records(rows: Iterable[Mapping[str, Any]]) -> Iterator[Record]:
    """Yield the records of W&B's rows; a row holds everything logged at its step."""
    for row in rows:
        if row.get(STEP) is None or row.get(TOKENS) is None:
            continue
        values = {name: row[name] for name in row if name[0] != "_" and name not in (STEP, TOKENS)}
        stage = {name: value for name, value in values.items() if name.startswith(STAGE)}
        parts = {"train": {name: values[name] for name in values if name not in stage}, "stage": stage}
        for kind, part in parts.items():
            if any(value is not None for value in part.values()):
                yield _record(kind, int(row[STEP]), int(row[TOKENS]), part)


def _record(kind: str, step: int, tokens: int, values: Mapping[str, Any]) -> Record:
    odd = {name: word for name, value in values.items() if (word := _not_finite(value))}
    kept = {name: None if name in odd else value for name, value in values.items() if value is not None}
    return {"kind": kind, "step": step, "tokens": tokens, **kept, **({NONFINITE: odd} if odd else {})}


def _not_finite(value: Any) -> str | None:
    """Return metrics.jsonl's name for a non-finite number, None for any other value."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return NOT_FINITE.get(value) if isinstance(value, str) else None


def _explained(error: Exception, spec: str) -> Exception:
    """Return the error to raise, with a remedy and without the key."""
    message = error_line(error)
    if "could not find run" in message.lower() or "not found" in message.lower():
        return ValueError(f"{spec} is not in W&B, or the API key has no access to it: compare it with the run's URL")
    if _statuses(error) & {401, 403}:
        return ValueError(f"W&B rejected the API key for {spec} ({message}): set WANDB_API_KEY to one with access")
    return OSError(f"cannot reach W&B to read {spec} ({message}): try again, or give the RUN folder instead")


def _statuses(error: BaseException | None) -> set[int]:
    """Return the HTTP status codes of an error and its causes."""
    found = set()
    while error is not None:
        found.add(getattr(getattr(error, "response", None), "http_status", 0))
        error = error.__cause__ or error.__context__
    return found
