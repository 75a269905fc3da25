"""Read a run out of W&B, as records like those of metrics.jsonl."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from train.report.wandb.api import check_key, within
from train.tracking.background import in_a_line
from train.tracking.metrics import NONFINITE, Record, in_order
from train.tracking.panels import STEP, TOKENS
from train.tracking.wandb_run import quiet_wandb

SPEC = re.compile(r"wandb:([^/\s:]+)/([^/\s:]+)/([^/\s:]+)")
ANSWER_S = 20
"""Longest time of one request to W&B."""
READ_S = 600.0
"""Longest time that reading a run may take."""
STAGE = ("val/", "bench/", "stage", "time/evaluation_s")
"""What the names of a stage record begin with."""
NOT_FINITE = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}
"""W&B's names for numbers that JSON has none for, and metrics.jsonl's."""


@dataclass(frozen=True)
class WandbRecords:
    """A run as W&B has it."""

    name: str
    """Its name there: the arm, for a run of ours."""
    config: dict[str, Any]
    records: list[Record]
    """By step, `train` before `stage`, with the keys of metrics.jsonl; what was null there has no key here."""


def read_wandb_run(spec: str, *, read_s: float = READ_S) -> WandbRecords:
    """Return the run `wandb:ENTITY/PROJECT/RUN_ID`, with the key in WANDB_API_KEY or netrc.

    Raises ValueError for a spec of another form, without a key, with a key that W&B refuses, and for a run that is not
    there or was not logged by PDPC; OSError when W&B is out of reach or takes longer than `read_s` seconds.
    """
    match = SPEC.fullmatch(spec)
    if match is None:
        raise ValueError(f"{spec!r} names no W&B run: write wandb:ENTITY/PROJECT/RUN_ID, as in the run's address")
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
            f"{spec} has no row with {STEP} and {TOKENS}: it was not logged by PDPC, or holds no record yet"
        )
    return WandbRecords(name, config, records)


def _records(rows: Iterable[Mapping[str, Any]]) -> Iterator[Record]:
    """Yield the records of W&B's rows; a row holds all that was logged at its step."""
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
    """Return the name that metrics.jsonl has for a number that is not finite, None for every other value."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return NOT_FINITE.get(value) if isinstance(value, str) else None


def _explained(error: Exception, spec: str) -> Exception:
    """Return what went wrong with its mend, and without the key."""
    told = in_a_line(error)
    if "could not find run" in told.lower() or "not found" in told.lower():
        return ValueError(f"{spec} is not in W&B, or this key may not read it: compare it with the run's address")
    if _statuses(error) & {401, 403}:
        return ValueError(f"W&B refuses the key, for {spec} ({told}): set WANDB_API_KEY to one that may read it")
    return OSError(f"W&B is out of reach, for {spec} ({told}): try again, or give the RUN folder, which has it all")


def _statuses(error: BaseException | None) -> set[int]:
    """Return the HTTP codes of an error and of what caused it."""
    found = set()
    while error is not None:
        found.add(getattr(getattr(error, "response", None), "http_status", 0))
        error = error.__cause__ or error.__context__
    return found
