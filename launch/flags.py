"""Words of the command line as overrides: flags, and a first word that needs no key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import get_type_hints


def as_overrides(words: Sequence[str], settings: type, first: str | None = None) -> list[str]:
    """Return words as Hydra overrides.

    `--dry-run` stands for `dry_run=true`, `--step 5` and `--step=5` for `step=5`: a flag takes the next word unless
    that is an override or a flag itself, or the setting is true or false. With `first`, the first word that is none of
    these gives that key its value.
    """
    return list(_overrides(words, settings, first))


def _overrides(words: Sequence[str], settings: type, first: str | None) -> Iterator[str]:
    hints = get_type_hints(settings)
    switches = {field.name for field in fields(settings) if hints[field.name] is bool}
    index, free = 0, first is not None
    while index < len(words):
        word = words[index]
        index += 1
        if not word.startswith("--"):
            named = free and _is_value(word)
            free = free and not named
            yield f"{first}={quoted(word)}" if named else word
            continue
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_") if not equals else name
        if not equals and name not in switches and index < len(words) and _is_value(words[index]):
            value = quoted(words[index])
            index += 1
        yield f"{name}={value}" if equals or value else f"{name}=true"


def quoted(value: str) -> str:
    """Return a value as Hydra's grammar reads it: in quotes where it is more than a number, a word or a plain path."""
    plain = value.replace("_", "").replace("-", "").replace(".", "").replace("/", "").isalnum()
    return value if plain else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _is_value(word: str) -> bool:
    return "=" not in word and not word.startswith(("--", "~", "+"))
