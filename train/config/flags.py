"""Command-line arguments as Hydra overrides: flags, a positional first argument, and text as it was typed."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from os import PathLike, fspath
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

PLAIN = re.compile(r"(?!(?:null|true|false|inf|nan)\Z)[a-z_][\w./-]*|[\w./-]*/[\w./-]*", re.ASCII | re.IGNORECASE)
"""Text that Hydra's grammar reads literally without quotes: a name, or a path with a slash."""
QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
"""A value in Hydra's own quotes."""
BRACKETS = {"[": 1, "(": 1, "{": 1, "]": -1, ")": -1, "}": -1}


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
    all of them are given to that function, which returns overrides.
    """

    def kind_of(key: str) -> Any:
        return _kind_of(key, schemas, choices or {})

    def is_value(word: str) -> bool:
        """Is a word with "=" the value of a text flag: is what precedes "=" no key?"""
        return not word.startswith(("--", "~", "+")) and kind_of(word.partition("=")[0]) is None

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
        key = key if kind_of(key) is not None else key.replace("-", "_")
        kind = kind_of(key)
        takes = is_value if _is_text(kind) or (get_origin(kind) is list and _is_text(get_args(kind)[0])) else _is_value
        if not equals and kind is not bool and index < len(words) and (_is_value(words[index]) or takes(words[index])):
            value = words[index]
            index += 1
        elif not equals:
            value, kind = "true", bool
        if get_origin(kind) is list and not value.startswith("["):
            members.setdefault(key, []).append(quoted(value) if _is_text(get_args(kind)[0]) else value)
        else:
            overrides.append(f"{key}={quoted(value) if _is_text(kind) else value}")
    overrides += named(free) if named and free else []
    return [*overrides, *(f"{key}=[{','.join(values)}]" for key, values in members.items())]


def as_typed(
    words: Sequence[str], *schemas: type, choices: Mapping[str, Mapping[str, type]] | None = None
) -> list[str]:
    """Return overrides in which the value of every text setting composes to the characters that were typed.

    Hydra reads `output=2024_06_01` as the number 20240601, and rejects `score=log(pd)`, `[c#1]` or a name that is not
    ASCII. Text, entries of a list of text and values of a mapping to text are put into quotes where Hydra would read
    something else. What is left to Hydra: text in its own quotes or with its escapes (`a\\,b`), `${`, and `null` for an
    optional setting. Raises ValueError, with the words to type, for a list given as one text and one text given as a
    list.
    """
    typed = {group: _chosen(group, options, words) for group, options in (choices or {}).items()}
    return [_typed(words, index, schemas, typed) for index in range(len(words))]


def _chosen(group: str, options: Mapping[str, type], words: Sequence[str]) -> Mapping[str, type]:
    """Return the option of a group that the words choose; all of them if its type is not known from its name."""
    names = [value for key, _, value in (word.partition("=") for word in words) if key.lstrip("+") == group]
    return {names[-1]: options[names[-1]]} if names and names[-1] in options else options


def _typed(words: Sequence[str], index: int, schemas: Sequence[type], choices: Mapping[str, Mapping[str, type]]) -> str:
    name, equals, value = words[index].partition("=")
    key = name.lstrip("+")
    kind = _kind_of(key, schemas, choices) if equals else None
    if kind is None or value == "":
        return words[index]
    if get_origin(kind) is list and value.strip()[:1] == "[" and not value.strip().endswith("]"):
        _check_unsplit(key, value, words[index + 1 :])
    return f"{name}={_value(key, value, kind)}"


def _value(key: str, value: str, kind: Any) -> str:
    """Return a value so that Hydra reads the texts in it as they were typed."""
    if (bare := value.strip(" \t"))[:1] in ("[", "{", "'", '"'):
        value = bare
    if kind is Any:  # a text, or a list of texts
        kind = list[str] if _is_list(value) else str
    if _is_text(kind):
        return _literal(key, value, kind)
    inner = get_args(kind)[-1] if get_origin(kind) in (list, dict) else None
    if inner is None or "${" in value or _is_null(value):
        return value
    if get_origin(kind) is list and not _is_list(value):
        raise ValueError(_list_needed(key, value, inner))
    if get_origin(kind) is list and _is_text(inner):
        return f"[{','.join(_literal(key, entry, inner, listed=True) for entry in _entries(key, value))}]"
    if get_origin(kind) is dict and (inner is Any or _is_text(inner)) and value[0] == "{" and value[-1] == "}":
        return f"{{{','.join(_pair(key, entry, inner) for entry in _entries(key, value))}}}"
    return value


def _is_list(value: str) -> bool:
    return value.startswith("[") and value.endswith("]")


def _literal(key: str, value: str, kind: Any, listed: bool = False) -> str:
    """Return one text so that Hydra reads it as it was typed."""
    if PLAIN.fullmatch(value) or "${" in value or QUOTED.fullmatch(value) or (kind is not str and _is_null(value)):
        return value
    if "\\" in value and isinstance(read := _read(value), str):  # Hydra's escapes
        return quoted(read)
    if value[0] in "[{" and isinstance(_read(value), list | dict):
        what, text = ("an entry", f"[{_shown(value)}]") if listed else (key, _shown(value))
        raise ValueError(
            f"{key}: {value} is a list or a mapping, and {what} is one text: if these characters are the text, write "
            f"{shlex.quote(f'{key}={text}')}"
        )
    return quoted(value)


def _shown(text: str) -> str:
    """Return text as a person would quote it for Hydra, in a word that the shell's single quotes surround."""
    return text if PLAIN.fullmatch(text) else quoted(text) if re.search(r'["\\]|\$\{', text) else f'"{text}"'


def _pair(key: str, entry: str, kind: Any) -> str:
    name, colon, value = entry.partition(":")
    if not colon or not value.strip():
        raise ValueError(f"{key}: {entry!r} is not NAME: TEXT: write {key}.NAME=TEXT")
    return f"{name.strip()}: {_value(f'{key}.{name.strip()}', value.strip(), kind)}"


def _entries(key: str, value: str) -> list[str]:
    """Return the entries of a list or mapping as typed: split at commas outside quotes and inner brackets."""
    found, start, depth, index = [], 0, 0, 0
    inner = value[1:-1]
    while index < len(inner):
        character, quote = inner[index], None
        if character in "'\"" and not inner[start:index].rpartition(":")[2].strip():
            quote = QUOTED.match(inner, index)
        if character == "," and depth == 0:
            found.append(inner[start:index].strip())
            start = index + 1
        depth += BRACKETS.get(character, 0)
        if depth < 0:
            break
        index = quote.end() if quote else index + (2 if character == "\\" else 1)
    if depth:
        opening, closing = value[0], value[-1]
        shown = ",".join(_shown(entry.strip()) for entry in inner.split(","))
        raise ValueError(
            f"{key}: the brackets of {value} do not match: quote the texts that contain brackets, as in "
            f"{shlex.quote(f'{key}={opening}{shown}{closing}')}"
        )
    found += [inner[start:].strip()] if found or inner.strip() else []
    if "" in found:
        raise ValueError(f"{key}: {value} has an empty entry: remove a comma, or write '' for an empty text")
    return found


def _check_unsplit(key: str, value: str, after: Sequence[str]) -> None:
    """Raise ValueError, with the word to type, if the shell split a list at its spaces."""
    if sum(BRACKETS.get(character, 0) for character in value) <= 0:
        return
    end = next((n for n, word in enumerate(after, start=1) if "=" in word or word.endswith("]")), 0)
    whole = " ".join([value, *after[:end]])
    whole = whole if _is_list(whole) else f"{value}]"
    raise ValueError(f"{key}: {value} has no closing bracket: write {shlex.quote(f'{key}={whole}')}")


def _list_needed(key: str, value: str, kind: Any) -> str:
    """Return the message for a list setting that was not given a list, with the words to type."""
    if QUOTED.fullmatch(value):
        listed = value[1:-1] if _is_list(value[1:-1]) else f"[{value}]"
        return f"{key} is a list: write {shlex.quote(f'{key}={listed}')}"
    listed = f"[{_shown(value)}]" if value.startswith("[") else f"[{value}]"
    words = shlex.quote(f"{key}={listed}")
    if _is_text(kind) and "," in value and not value.startswith("["):
        one = shlex.quote(f"{key}=[{_shown(value)}]")
        return f"{key} is a list: write {words} for the entries {value}, or {one} for one entry with these characters"
    return f"{key} is a list: write {words}"


def _read(value: str) -> Any:
    """Return what Hydra's grammar reads in a value; None if it cannot be read."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(f"key={value}").value()
    except HydraException:
        return None


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


def _kind_of(key: str, schemas: Sequence[type], choices: Mapping[str, Mapping[str, type]]) -> Any:
    group, _, rest = key.partition(".")
    places = [(schema, key) for schema in schemas]
    places += [(option, rest) for option in choices.get(group, {}).values()]
    return next((kind for schema, name in places if (kind := _kind(schema, name)) is not None), None)


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


def _is_null(value: str) -> bool:
    return value.lower() == "null"


def _is_value(word: str) -> bool:
    return "=" not in word and not word.startswith(("--", "~", "+"))
