"""What is known of a run besides its settings, as texts that can be compared: from run.json, its order and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from curriculum.order.contents import EVERY, SAMPLE_SET, contents_of
from curriculum.order.order import Order
from train.report.measures import short_tokens
from train.report.records import Run

Facts = dict[str, str]
FINGERPRINTS = {
    "tokens": "tokens",
    "tokenizer": "tokenizer",
    "validation": "held-out text",
    "benchmarks": "benchmark files",
    "scores": "scores of the held-out text",
    "init": "initial weights",
}
"""Inputs that must agree, by their name in run.json, and in words."""
SHORT = 12
"""Digits shown of a fingerprint."""


def facts_of(run: Run, order: Order | None) -> Facts:
    """Return the facts of a run by name; what is not known is left out. `order`: the one that the run used, opened."""
    contents = run.fact("arranged") if run.fact("arranged", "batch_sizes") else contents_of(order) if order else {}
    facts: dict[str, str | None] = {
        **_contents(run, contents),
        "sequence length": _text(run.fact("decoder", "max_seq_len") or contents.get("seq_len")),
        "parameters": _text(run.fact("parameters")),
        "changes accepted in mid-run": _accepted(run),
        "device": _course(run, lambda attempt: attempt.get("device")),
        "processes": _course(run, lambda attempt: attempt.get("world_size")) or _text(run.fact("world_size")),
        "code": _course(run, lambda attempt: (attempt.get("code") or "")[:SHORT] or None),
        "benchmark harness": _course(run, lambda attempt: attempt.get("harness")),
        "preference": _course(run, lambda attempt: _preference(attempt.get("arranged")))
        or _preference(run.fact("arranged")),
        "scores behind the order": _short(run.fact("arranged", "inputs", "scores")),
        "order changed in mid-run": _replanned(run, contents),
    }
    for name, words in FINGERPRINTS.items():
        facts[words] = _short(run.fact("fingerprints", name))
    if run.fact("fingerprints"):
        facts[FINGERPRINTS["init"]] = facts[FINGERPRINTS["init"]] or "random"
    for name in sorted(run.fact("versions") or {}):
        facts[f"version of {name}"] = _course(run, partial(_version, name)) or _text(run.fact("versions", name))
    return {name: text for name, text in facts.items() if text is not None}


def _version(name: str, attempt: Mapping[str, Any]) -> Any:
    return (attempt.get("versions") or {}).get(name)


def _contents(run: Run, contents: Mapping[str, Any]) -> dict[str, str | None]:
    """Return what the order holds; of a run of an older PDPC whose order is gone, only the batch size is known."""
    if not contents:
        split = [run.fact(key) for key in ("world_size", "micro_batch_size", "accumulation")]
        known = all(isinstance(value, int) for value in split)
        return {"batch size": f"{split[0] * split[1] * split[2]:,}" if known else None}
    sizes = [f"{size:,}" + (f" from step {first + 1:,}" if first else "") for first, size in contents["batch_sizes"]]
    used = contents[SAMPLE_SET]
    return {
        "batch size": ", then ".join(sizes),
        "steps planned": f"{contents['steps']:,}",
        "samples": f"{contents['samples']:,}, {contents['left_out']:,} left out, {contents['repeated']:,} repeated",
        "which samples": used if used in (EVERY, None) else f"those of hash {used}",
    }


def _course(run: Run, value_of: Callable[[Mapping[str, Any]], Any]) -> str | None:
    """Return a value over the attempts of a run that made steps: `1, then 4 from step 501`; None if unknown."""
    course: list[tuple[int, str]] = []
    for attempt in run.fact("lives") or []:
        value, first = value_of(attempt), int(attempt.get("step", 0))
        course = [(step, text) for step, text in course if step < first]
        if value is None:
            return None
        if not course or course[-1][1] != str(value):
            course.append((first, str(value)))
    return ", then ".join(text + (f" from step {step + 1:,}" if step else "") for step, text in course) or None


def _accepted(run: Run) -> str | None:
    """Return the changes that attempts accepted, except of the arm; None if the run records no attempts."""
    attempts = run.fact("lives")
    if not attempts:
        return None
    changes = [
        f"{change['field']} {_value(change['old'])} to {_value(change['new'])} at step {int(attempt.get('step', 0)):,}"
        for attempt in attempts
        for change in attempt.get("accepted", [])
        if change["field"] != "arm"  # the name of a branch, not how it trains
    ]
    return "; ".join(changes) or "none"


def _replanned(run: Run, contents: Mapping[str, Any]) -> str | None:
    """Return where the order changed: between attempts, or where the order that the run began with was replanned."""
    orders = _course(run, lambda attempt: (attempt.get("order") or "")[:SHORT] or None)
    if orders and ", then " in orders:
        return orders.partition(", then ")[2]
    at = contents.get("replanned_at")
    return f"replanned from step {at + 1:,}" if at else "no" if contents else None


def lost_steps(run: Run) -> str | None:
    """Return the steps that guards skipped or rolled back; None if unknown."""
    lost = run.lost
    if lost is None:
        return None
    if not lost.steps:
        return "none"
    text = f"{lost.steps:,} of {run.steps:,} steps ({100 * lost.steps / max(1, run.steps):.2g}%)"
    if lost.tokens is not None:
        text += f", {short_tokens(lost.tokens)} of {short_tokens(run.tokens)} tokens"
    return text + (f", {lost.rollbacks} rollback{'s' * (lost.rollbacks != 1)}" if lost.rollbacks else "")


def _preference(arranged: Any) -> str | None:
    preference = arranged.get("preference") if isinstance(arranged, dict) else None
    if not isinstance(preference, dict):
        return None
    if "twin" in arranged:
        return f"{arranged['twin']} twin of {_preference({'preference': preference})}"
    given = {key: value for key, value in preference.items() if key != "name" and value not in (None, [], {})}
    words = [f"{key} {_value(value)}" for key, value in given.items()]
    return f"{preference.get('name')} ({', '.join(words)})" if words else str(preference.get("name"))


def _short(fingerprint: Any) -> str | None:
    return fingerprint[:SHORT] if isinstance(fingerprint, str) else None


def _text(value: Any) -> str | None:
    return None if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else value[:SHORT] if isinstance(value, str) else str(value)
