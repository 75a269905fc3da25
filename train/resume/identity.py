"""What a run is: which settings and data bind all of its lives, what may change between two, and what never can.

A setting says itself whether it binds a run (`models/setting.py`). Fields have dotted names: `optimizer.lr` is a
setting, `fingerprints.order` is data that the run reads, `decoder.vocab_size` and `decoder.max_seq_len` are what the
tokens make of the model.
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

FINGERPRINTS = ("benchmarks", "order", "scores", "tokenizer", "tokens", "validation")
"""What a run reads, compared by content."""

DECODER = ("max_seq_len", "vocab_size")
"""What the tokens make of the model: their sequence length, and their vocabulary rounded up."""

_FIXED_DATA = {
    "fingerprints.tokens": "the order's samples would be other text than what was read under the same numbers",
    "fingerprints.tokenizer": "the token ids that the model has learned would stand for other text",
    "decoder.vocab_size": "embedding and head have a row for each entry of the vocabulary that the run began with",
    "decoder.max_seq_len": "samples of another length are other samples than those that were read",
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
    """Return what can never be accepted once something was trained, by dotted name, and why."""
    return {name: item.metadata["fixed"] for name, item in _settings() if "fixed" in item.metadata} | _FIXED_DATA


@dataclass(frozen=True)
class Change:
    """A field in which a run differs from what is asked for."""

    field: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.field}: {self.old!r} there, {self.new!r} now"


def identity(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings that decide what a run computes, nested, without the free ones."""
    tree = asdict(settings)
    for key in free():
        branch, _, leaf = key.rpartition(".")
        del (tree[branch] if branch else tree)[leaf]
    return {key: value for key, value in tree.items() if value != {}}


def facts_of(settings: TrainSettings, inputs: Inputs) -> dict[str, Any]:
    """Return all that binds a run's lives, as JSON values by dotted name."""
    return flat(identity(settings), inputs.fingerprints, asdict(inputs.decoder))


def flat(
    settings: Mapping[str, Any], fingerprints: Mapping[str, str | None], decoder: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what an identity, fingerprints and a decoder's configuration say, as JSON values by dotted name.

    A setting that the identity of an older PDPC lacks has its default; of the decoder, what is not there is left out.
    """
    values = {**defaults(), **dict(_leaves(settings, ""))}
    values = {key: value for key, value in values.items() if key not in free()}
    values |= {f"fingerprints.{name}": fingerprints.get(name) for name in FINGERPRINTS}
    values |= {f"decoder.{name}": decoder[name] for name in DECODER if name in decoder}
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Return the fields in which two runs differ, by name. What the older one does not say of its decoder is none."""
    names = [name for name in sorted({*old, *new}) if not name.startswith("decoder.") or name in old]
    return [Change(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def unrecorded(found: Iterable[Change], lives: Sequence[Mapping[str, Any]]) -> list[Change]:
    """Return the changes that no life has accepted on record, in one step or in several."""
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
    """Tell whether a change is accepted, now or on record."""
    return change.field in accept or not unrecorded([change], lives)


def judge(where: str, found: Sequence[Change], accept: Sequence[str], trained: bool) -> None:
    """Raise ChangedRun for what is not accepted, or cannot be: all of the fields by name, each with both values.

    `where`: what the changes were found against; `trained`: it has weights that have learned.
    """
    never = [change for change in found if change.field in fixed() and trained]
    if never:
        told = "; ".join(f"{change} ({fixed()[change.field]})" for change in never)
        raise ChangedRun(f"{where} cannot go on with {told}: give the old value again, or another output")
    refused = [change for change in found if change.field not in accept]
    if refused:
        words = " ".join(f"--accept-change {change.field}" for change in refused)
        raise ChangedRun(
            f"{where} was begun with other settings or data ({'; '.join(map(str, refused))}): give the same again, or "
            f"another output; to go on with the change on record, add {words}"
        )


def check_acceptable(accept: Sequence[str]) -> None:
    """Raise ValueError for a name in `accept_change` that is no field of a run, naming the nearest ones."""
    known = [*binding()]
    known += [*(f"decoder.{name}" for name in DECODER), *(f"fingerprints.{name}" for name in FINGERPRINTS)]
    for name in accept:
        if name in free():
            raise ValueError(f"accept_change={name}: {name} may change at any time, leave it out")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            mend = f"use {' or '.join(near)}" if near else "give the name that the refusal told"
            raise ValueError(f"accept_change={name} is no field of a run: {mend}")


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
