"""Words of the command line as overrides: flags, and a first word that needs no key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import get_origin, get_type_hints


def as_overrides(words: Sequence[str], settings: type, first: str | None = None) -> list[str]:
    """Return words as Hydra overrides.

    `--dry-run` stands for `dry_run=true`, `--step 5` and `--step=5` for `step=5`: a flag takes the next word unless
    that is an override or a flag itself, or the setting is true or false. A setting that is a list takes its flag as
    often as it is given: `--accept-change a --accept-change b` is `accept_change=[a,b]`. With `first`, the first word
    that is none of these gives that key its value.
    """
    hints = get_type_hints(settings)
    lists = {field.name for field in fields(settings) if get_origin(hints[field.name]) is list}
    switches = {field.name for field in fields(settings) if hints[field.name] is bool}
    overrides: list[str] = []
    members: dict[str, list[str]] = {}
    for name, value in _pairs(words, switches, lists, first):
        if name in lists and not value.startswith("["):
            members.setdefault(name, []).append(value)
        else:
            overrides.append(f"{name}={value}" if name else value)
    return [*overrides, *(f"{name}=[{','.join(values)}]" for name, values in members.items())]


def _pairs(words: Sequence[str], switches: set[str], lists: set[str], first: str | None) -> Iterator[tuple[str, str]]:
    """Yield (key, value) for flags and a first word, and ("", word) for what is an override already."""
    index, named = 0, False
    while index < len(words):
        word = words[index]
        index += 1
        if not word.startswith("--"):
            if first and not named and _is_value(word):
                named = True
                yield first, quoted(word)
            else:
                yield "", word
            continue
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_") if not equals or name.replace("-", "_") in lists else name
        if not equals and name not in switches and index < len(words) and _is_value(words[index]):
            value = quoted(words[index])
            index += 1
        yield name, value if equals or value else "true"


def quoted(value: str) -> str:
    """Return a value as Hydra's grammar reads it: in quotes where it is more than a number, a word or a plain path."""
    plain = value.replace("_", "").replace("-", "").replace(".", "").replace("/", "").isalnum()
    return value if plain else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _is_value(word: str) -> bool:
    return "=" not in word and not word.startswith(("--", "~", "+"))
