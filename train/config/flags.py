"""Command-line arguments as Hydra overrides: flags, a positional first argument, and quoted text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from os import PathLike, fspath
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

PLAIN = re.compile(r"(?!(?:null|true|false|inf|nan)\Z)[a-z_][\w./-]*|[\w./-]*/[\w./-]*", re.ASCII | re.IGNORECASE)
"""Text that Hydra's grammar reads literally without quotes: a name, or a path with a slash."""


def as_overrides(
    words: Sequence[str],
    *schemas: type,
    first: str | None = None,
    choices: Mapping[str, Mapping[str, type]] | None = None,
) -> list[str]:
    """Return command-line arguments as Hydra overrides.

    `--dry-run` means `dry_run=true`; `--step 5` and `--step=5` mean `step=5`. A flag takes the next argument unless
    that is an override or a flag itself, or the setting is a bool. Types come from the settings dataclasses `schemas`
    and from the options of `choices` (as in `compose`). If a setting is text, its flag's value is taken literally;
    otherwise Hydra parses it. The flag of a list may be repeated: `--accept-change a --accept-change b` means
    `accept_change=[a,b]`. With `first`, the first argument that is none of these is the text of that key.
    """

    def kind_of(key: str) -> Any:
        group, _, rest = key.partition(".")
        places = [(schema, key) for schema in schemas]
        places += [(option, rest) for option in (choices or {}).get(group, {}).values()]
        return next((kind for schema, name in places if (kind := _kind(schema, name)) is not None), None)

    overrides: list[str] = []
    members: dict[str, list[str]] = {}
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if not word.startswith("--"):
            if first and _is_value(word):
                overrides.append(f"{first}={quoted(word)}")
                first = None
            else:
                overrides.append(word)
            continue
        key, equals, value = word[2:].partition("=")
        key = key if kind_of(key) is not None else key.replace("-", "_")
        kind = kind_of(key)
        if not equals and kind is not bool and index < len(words) and _is_value(words[index]):
            value = words[index]
            index += 1
        elif not equals:
            value, kind = "true", bool
        if get_origin(kind) is list and not value.startswith("["):
            members.setdefault(key, []).append(quoted(value) if _is_text(get_args(kind)[0]) else value)
        else:
            overrides.append(f"{key}={quoted(value) if _is_text(kind) else value}")
    return [*overrides, *(f"{key}=[{','.join(values)}]" for key, values in members.items())]


def quoted(text: str | PathLike[str]) -> str:
    """Return text, or a path, as the value of a Hydra override (`key=VALUE`, `key=[VALUE,...]`) that composes to it.

    In quotes where Hydra or OmegaConf would read something else: a number, `null`, a list, `${...}`. The only text
    that no override can express is `???`, OmegaConf's mark for a missing value.
    """
    text = fspath(text)
    if PLAIN.fullmatch(text):
        return text
    # A backslash escapes a quote (Hydra) or `${` (OmegaConf), so only backslashes before one of these are doubled, and
    # those at the end, before the closing quote.
    text = re.sub(r"(\\*)('|\$\{)", r"\1\1\\\2", text)
    return "'" + re.sub(r"(\\+)\Z", r"\1\1", text) + "'"


def _kind(schema: Any, key: str) -> Any:
    """Return the type of a setting by its dotted key; None if these settings have no such key."""
    for name in key.split("."):
        if is_dataclass(schema):
            schema = get_type_hints(schema).get(name)
        elif get_origin(schema) is dict:
            schema = get_args(schema)[1]
        else:
            return None
    return schema


def _is_text(kind: Any) -> bool:
    return kind is str or (get_origin(kind) in (Union, UnionType) and str in get_args(kind))


def _is_value(word: str) -> bool:
    return "=" not in word and not word.startswith(("--", "~", "+"))
