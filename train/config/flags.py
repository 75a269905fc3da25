"""Command-line arguments as Hydra overrides: flags, and a positional first argument."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args, get_origin

from train.config.keys import is_text, kind_of
from train.config.typed import quoted


def as_overrides(
    words: Sequence[str],
    *schemas: type,
    first: str | None = None,
    choices: Mapping[str, Mapping[str, type]] | None = None,
    named: Callable[[list[str]], list[str]] | None = None,
) -> list[str]:
    """Return command-line arguments as Hydra overrides.

    `--dry-run` means `dry_run=true`; `--step 5` and `--step=5` mean `step=5`. A flag takes the next argument unless
    that is an override or a flag itself, or the setting is a bool. Types come from the settings dataclasses `schemas`
    and from the options of `choices` (as in `compose`). If a setting is text, its flag's value is taken literally;
    otherwise Hydra parses it. The flag of a list may be repeated: `--accept-change a --accept-change b` means
    `accept_change=[a,b]`. With `first`, the first argument that is none of these is the text of that key; with `named`,
    all of them are given to that function, which returns overrides. Raises ValueError for a flag that needs a value and
    has none.
    """

    def kind_named(key: str) -> Any:
        return kind_of(key, schemas, choices or {})

    def is_value(word: str) -> bool:
        """Is a word with "=" the value of a text flag: is what precedes "=" no key?"""
        return not word.startswith(("--", "~", "+")) and kind_named(word.partition("=")[0]) is None

    overrides: list[str] = []
    free: list[str] = []
    members: dict[str, list[str]] = {}
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if not word.startswith("--"):
            keyless = _is_value(word) or (is_value(word) and os.path.exists(word))
            if named and keyless:
                free.append(word)
            elif first and keyless:
                overrides.append(f"{first}={quoted(word)}")
                first = None
            else:
                overrides.append(word)
            continue
        key, equals, value = word[2:].partition("=")
        key = key if kind_named(key) is not None else key.replace("-", "_")
        kind = kind_named(key)
        takes = is_value if is_text(kind) or (get_origin(kind) is list and is_text(get_args(kind)[0])) else _is_value
        if not equals and kind is not bool and index < len(words) and (_is_value(words[index]) or takes(words[index])):
            value = words[index]
            index += 1
        elif not equals:
            if kind is not None and bool not in (kind, *get_args(kind)):
                raise ValueError(_without_value(word, words[index : index + 1]))
            value, kind = "true", bool
        if get_origin(kind) is list and not value.startswith("["):
            members.setdefault(key, []).append(quoted(value) if is_text(get_args(kind)[0]) else value)
        else:
            overrides.append(f"{key}={quoted(value) if is_text(kind) else value}")
    overrides += named(free) if named and free else []
    return [*overrides, *(f"{key}=[{','.join(values)}]" for key, values in members.items())]


def _without_value(flag: str, after: Sequence[str]) -> str:
    """Return the message for a flag without its value, given the word after it, if there is one."""
    text = f"{flag} has no value: write {flag} VALUE"
    if after and "=" in after[0] and not after[0].startswith("--"):
        return f"{text}, or {shlex.quote(f'{flag}={after[0]}')} if that is the value"
    return text


def _is_value(word: str) -> bool:
    return "=" not in word and not word.startswith(("--", "~", "+"))
