"""Identity of a run: settings and data that bind all its attempts, those that may change, and those that never can.

Each setting declares whether it binds a run (`models/setting.py`). Fields have dotted names: `optimizer.lr` is a
setting, `fingerprints.order` is data that the run reads, `decoder.vocab_size` and `decoder.max_seq_len` are model
dimensions set by the tokens.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from models.setting import binds
from train.inputs import Inputs
from train.resume.lineage import ChangedRun
from train.settings import TrainSettings

FINGERPRINTS = ("benchmarks", "init", "order", "scores", "tokenizer", "tokens", "validation")
"""Inputs of a run, compared by content."""

DECODER = ("max_seq_len", "vocab_size")
"""Model dimensions set by the tokens: their sequence length, and their vocabulary rounded up."""

SCHEDULE_STEPS = "schedule.steps"
"""Steps over which the learning rate decays: those of the order, so they change when it is replanned to another length
(train/resume/rate.py)."""

_FIXED_DATA = {
    "fingerprints.tokens": "the order's sample ids would refer to other text than before",
    "fingerprints.tokenizer": "the token ids that the model has learned would mean other text",
    "fingerprints.init": "the run's weights have come from those it started with",
    "decoder.vocab_size": "embedding and head have one row per entry of the run's first vocabulary",
    "decoder.max_seq_len": "samples of another length are not the samples that were read",
}


@cache
def binding() -> tuple[str, ...]:
    """Return the settings that bind a run, by dotted name: a change is rejected on resume, or accepted on record."""
    return tuple(name for name, item in _settings() if binds(item.metadata))


@cache
def free() -> tuple[str, ...]:
    """Return the settings that may change whenever a run resumes, by dotted name."""
    return tuple(name for name, item in _settings() if not binds(item.metadata))


@cache
def fixed() -> dict[str, str]:
    """Return the changes that can never be accepted once something was trained, by dotted name, and why."""
    return {name: item.metadata["fixed"] for name, item in _settings() if "fixed" in item.metadata} | _FIXED_DATA


@dataclass(frozen=True)
class Change:
    """A field in which a run differs from the requested settings or data."""

    field: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.field}: was {self.old!r}, now {self.new!r}"


def identity(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings that decide what a run computes, nested, without the free ones."""
    tree = asdict(settings)
    for key in free():
        branch, _, leaf = key.rpartition(".")
        del (tree[branch] if branch else tree)[leaf]
    return {key: value for key, value in tree.items() if value != {}}


def facts_of(settings: TrainSettings, inputs: Inputs) -> dict[str, Any]:
    """Return everything that binds a run's attempts, as JSON values by dotted name."""
    return flat(identity(settings), inputs.fingerprints, asdict(inputs.decoder))


def flat(
    settings: Mapping[str, Any], fingerprints: Mapping[str, str | None], decoder: Mapping[str, Any]
) -> dict[str, Any]:
    """Return an identity, fingerprints and a decoder's configuration as JSON values by dotted name.

    A setting missing from the identity of an older PDPC has its default; missing decoder fields are omitted.
    """
    values = {**defaults(), **dict(_leaves(settings, ""))}
    values = {key: value for key, value in values.items() if key not in free()}
    values |= {f"fingerprints.{name}": fingerprints.get(name) for name in FINGERPRINTS}
    values |= {f"decoder.{name}": decoder[name] for name in DECODER if name in decoder}
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Return the fields in which two runs differ, by name, without decoder fields that the older one lacks."""
    names = [name for name in sorted({*old, *new}) if not name.startswith("decoder.") or name in old]
    return [Change(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def unrecorded(found: Iterable[Change], lives: Sequence[Mapping[str, Any]]) -> list[Change]:
    """Return the changes that no attempt has accepted on record, in one step or in several."""
    left = []
    for change in found:
        value = change.old
        for accepted in (entry for life in lives for entry in life.get("accepted", [])):
            if accepted["field"] == change.field and accepted["old"] == value:
                value = accepted["new"]
        if value != change.new:
            left.append(change)
    return left


def is_accepted(change: Change, accept: Sequence[str], lives: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a change is accepted, now or on record."""
    return change.field in accept or not unrecorded([change], lives)


def judge(where: str, found: Sequence[Change], accept: Sequence[str], trained: bool) -> None:
    """Raise ChangedRun naming every field that is not accepted, or cannot be, each with both values.

    `where`: the run or checkpoint that the changes were found against; `trained`: it has trained weights.
    """
    never = [change for change in found if change.field in fixed() and trained]
    if never:
        named = "; ".join(f"{change} ({fixed()[change.field]})" for change in never)
        raise ChangedRun(f"{where} cannot resume with {named}: restore the old value, or choose another output")
    refused = [change for change in found if change.field not in accept]
    if refused:
        words = " ".join(f"--accept-change {change.field}" for change in refused)
        raise ChangedRun(
            f"{where} was started with other settings or data ({'; '.join(map(str, refused))}): restore them, or "
            f"choose another output; to resume with the change on record, add {words}"
        )


def check_acceptable(accept: Sequence[str]) -> None:
    """Raise ValueError for a name in `accept_change` that is not a field of a run, naming the closest ones."""
    known = [*binding()]
    known += [*(f"decoder.{name}" for name in DECODER), *(f"fingerprints.{name}" for name in FINGERPRINTS)]
    known.append(SCHEDULE_STEPS)
    for name in accept:
        if name in free():
            raise ValueError(f"accept_change={name}: {name} may change at any time, so remove it")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            remedy = f"use {' or '.join(near)}" if near else "use the name given in the error message"
            raise ValueError(f"accept_change={name} is not a field of a run: {remedy}")


def defaults() -> dict[str, Any]:
    """Return the default of every setting that has one, by dotted name."""
    found = {}
    for name, item in _settings():
        if item.default is not MISSING:
            found[name] = item.default
        elif item.default_factory is not MISSING:
            found[name] = item.default_factory()
    return found


@cache
def _settings() -> tuple[tuple[str, Field[Any]], ...]:
    """Return every setting of `pdpc train` with its dotted name."""
    return tuple(_fields(TrainSettings, ""))


def _fields(schema: type, prefix: str) -> Iterator[tuple[str, Field[Any]]]:
    hints = get_type_hints(schema)
    for item in fields(schema):
        if is_dataclass(hints[item.name]):
            yield from _fields(hints[item.name], f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", item


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
